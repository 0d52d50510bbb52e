/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef CLUSTERD_VIP_H
#define CLUSTERD_VIP_H

#include <linux/hashtable.h>
#include <linux/in6.h>
#include <linux/mutex.h>
#include <linux/ratelimit.h>
#include <linux/rcupdate.h>
#include <net/net_namespace.h>

#define VIP_NO_LOG	-1

/* What is asked for with a virtual IP. */
struct vip_options {
	bool	gate;
	int	log_group;	/* of nfnetlink_log, or VIP_NO_LOG */
};

/* Packets to a virtual IP; unsigned long, so that no counter is read torn. */
struct vip_counters {
	unsigned long	rewritten;	/* packet type set to PACKET_HOST */
	unsigned long	wrong;		/* dropped: wrong number for an own request */
	unsigned long	unknown;	/* dropped: no socket here is concerned */
};

/* A virtual IP of a network namespace. Found under RCU, changed under clusterd_net.lock. */
struct vip {
	struct hlist_node		node;
	struct rcu_head			rcu;
	struct in6_addr			addr;	/* an IPv4 address as ::ffff:a.b.c.d */
	struct vip_options		options;
	struct ratelimit_state		log_limit;
	struct vip_counters __percpu	*counters;
};

#define VIP_HASH_BITS	6
#define VIPS_MAX	1024

/* What the module keeps for each network namespace. */
struct clusterd_net {
	struct mutex	lock;	/* changes of the table, and with it of the hooks */
	unsigned int	count;
	DECLARE_HASHTABLE(vips, VIP_HASH_BITS);
};

extern unsigned int clusterd_vips_max;
extern unsigned int clusterd_net_id;

struct clusterd_net *clusterd_pernet(struct net *net);

struct vip *vip_find(struct net *net, const struct in6_addr *addr);
int vip_add(struct net *net, const struct in6_addr *addr, struct vip_options options);
int vip_remove(struct net *net, const struct in6_addr *addr);
void vip_remove_all(struct net *net);
struct vip_counters vip_count(const struct vip *vip);

#endif
