// SPDX-License-Identifier: GPL-2.0-only
/*
 * The virtual IPs of each network namespace.
 *
 * Each one holds a reference to the module: as with a rule that uses a match, what is
 * in use cannot be unloaded. The hooks are there as long as there is a virtual IP, so
 * that a namespace without one pays nothing.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/jhash.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <net/ipv6.h>
#include <net/netns/generic.h>

#include "hook.h"
#include "vip.h"

/* Evidence copied to user space for each virtual IP: as much as clusterd's own rules log. */
#define LOGGED_PER_SECOND	1000

struct clusterd_net *clusterd_pernet(struct net *net)
{
	return net_generic(net, clusterd_net_id);
}

/* Whoever may add addresses is trusted not to make them collide. */
static u32 vip_hash(const struct in6_addr *addr)
{
	return jhash2((__force const u32 *)addr->s6_addr32, ARRAY_SIZE(addr->s6_addr32), 0);
}

/* Called under RCU, or with the namespace's lock held. */
struct vip *vip_find(struct net *net, const struct in6_addr *addr)
{
	struct clusterd_net *cn = clusterd_pernet(net);
	struct vip *vip;

	hash_for_each_possible_rcu(cn->vips, vip, node, vip_hash(addr), lockdep_is_held(&cn->lock))
		if (ipv6_addr_equal(&vip->addr, addr))
			return vip;
	return NULL;
}

static void vip_free(struct vip *vip)
{
	free_percpu(vip->counters);
	kfree(vip);
}

static void vip_free_rcu(struct rcu_head *rcu)
{
	vip_free(container_of(rcu, struct vip, rcu));
}

static struct vip *vip_alloc(const struct in6_addr *addr)
{
	struct vip *vip = kzalloc(sizeof(*vip), GFP_KERNEL);

	if (!vip)
		return NULL;
	vip->counters = alloc_percpu(struct vip_counters);
	if (!vip->counters) {
		kfree(vip);
		return NULL;
	}
	vip->addr = *addr;
	ratelimit_state_init(&vip->log_limit, HZ, LOGGED_PER_SECOND);
	/* What it suppresses is only said on release, and it is never released. */
	ratelimit_set_flags(&vip->log_limit, RATELIMIT_MSG_ON_RELEASE);
	return vip;
}

/* A packet that is judged meanwhile meets the old options or the new ones. */
static void vip_set_options(struct vip *vip, struct vip_options options)
{
	WRITE_ONCE(vip->options.log_group, options.log_group);
	WRITE_ONCE(vip->options.gate, options.gate);
}

static int vip_insert(struct net *net, const struct in6_addr *addr, struct vip_options options)
{
	struct clusterd_net *cn = clusterd_pernet(net);
	struct vip *vip;
	int err;

	if (cn->count >= READ_ONCE(clusterd_vips_max)) {
		pr_err_ratelimited("no room: %u virtual IPs in this namespace, vips_max=%u\n",
				   cn->count, clusterd_vips_max);
		return -ENOSPC;
	}
	/* Somebody unloads the module just now. */
	if (!try_module_get(THIS_MODULE))
		return -ENODEV;
	vip = vip_alloc(addr);
	if (!vip) {
		err = -ENOMEM;
		goto err_module;
	}
	vip_set_options(vip, options);
	if (!cn->count) {
		err = hook_register(net);
		if (err)
			goto err_vip;
	}
	hash_add_rcu(cn->vips, &vip->node, vip_hash(addr));
	cn->count++;
	return 0;

err_vip:
	vip_free(vip);
err_module:
	module_put(THIS_MODULE);
	return err;
}

/* Adds a virtual IP, or changes the options of one that is there. */
int vip_add(struct net *net, const struct in6_addr *addr, struct vip_options options)
{
	struct clusterd_net *cn = clusterd_pernet(net);
	struct vip *vip;
	int err = 0;

	mutex_lock(&cn->lock);
	vip = vip_find(net, addr);
	if (vip)
		vip_set_options(vip, options);
	else
		err = vip_insert(net, addr, options);
	mutex_unlock(&cn->lock);
	return err;
}

static void vip_delete(struct net *net, struct vip *vip)
{
	struct clusterd_net *cn = clusterd_pernet(net);

	if (!--cn->count)
		hook_unregister(net);
	hash_del_rcu(&vip->node);
	call_rcu(&vip->rcu, vip_free_rcu);
	module_put(THIS_MODULE);
}

int vip_remove(struct net *net, const struct in6_addr *addr)
{
	struct clusterd_net *cn = clusterd_pernet(net);
	struct vip *vip;

	mutex_lock(&cn->lock);
	vip = vip_find(net, addr);
	if (vip)
		vip_delete(net, vip);
	mutex_unlock(&cn->lock);
	return vip ? 0 : -ENOENT;
}

/* For a namespace that goes. */
void vip_remove_all(struct net *net)
{
	struct clusterd_net *cn = clusterd_pernet(net);
	struct hlist_node *next;
	struct vip *vip;
	int bucket;

	mutex_lock(&cn->lock);
	hash_for_each_safe(cn->vips, bucket, next, vip, node)
		vip_delete(net, vip);
	mutex_unlock(&cn->lock);
}

struct vip_counters vip_count(const struct vip *vip)
{
	struct vip_counters sum = {};
	int cpu;

	for_each_possible_cpu(cpu) {
		const struct vip_counters *counters = per_cpu_ptr(vip->counters, cpu);

		sum.rewritten += READ_ONCE(counters->rewritten);
		sum.wrong += READ_ONCE(counters->wrong);
		sum.unknown += READ_ONCE(counters->unknown);
	}
	return sum;
}
