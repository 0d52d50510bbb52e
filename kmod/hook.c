// SPDX-License-Identifier: GPL-2.0-only
/*
 * What happens to a packet to a virtual IP.
 *
 * TCP, among others, takes packets of type PACKET_HOST only (tcp_v4_rcv, tcp_v6_rcv), and
 * a frame to a group MAC makes another type of it (eth_type_trans). This comes after
 * reassembly and before connection tracking, which then does not see what the gate drops.
 */
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6.h>
#include <linux/netdevice.h>
#include <net/ipv6.h>
#include <net/netfilter/nf_log.h>

#include "gate.h"
#include "hook.h"
#include "vip.h"

/* Copied to user space: IP and TCP headers with options fit, as with clusterd's own rules. */
#define LOG_SNAPLEN	80

static void hook_log(struct vip *vip, int group, const struct sk_buff *skb,
		     const struct nf_hook_state *state)
{
	const struct nf_loginfo info = {
		.type = NF_LOG_TYPE_ULOG,
		.u.ulog = {
			.copy_len = LOG_SNAPLEN,
			.group = group,
			.qthreshold = 1,
			.flags = NF_LOG_F_COPY_LEN,
		},
	};

	if (__ratelimit(&vip->log_limit))
		nf_log_packet(state->net, state->pf, state->hook, skb, state->in, NULL, &info,
			      "%s", "");
}

static unsigned int hook_gate(struct vip *vip, struct sk_buff *skb,
			      const struct nf_hook_state *state)
{
	int group;

	switch (gate_judge(skb, state)) {
	case GATE_ADMIT:
		return NF_ACCEPT;
	case GATE_WRONG:
		this_cpu_inc(vip->counters->wrong);
		group = READ_ONCE(vip->options.log_group);
		if (group != VIP_NO_LOG)
			hook_log(vip, group, skb, state);
		return NF_DROP;
	case GATE_UNKNOWN:
		this_cpu_inc(vip->counters->unknown);
		return NF_DROP;
	}
	return NF_DROP;
}

static unsigned int hook_packet(struct sk_buff *skb, const struct nf_hook_state *state,
				const struct in6_addr *daddr)
{
	struct vip *vip = vip_find(state->net, daddr);

	if (!vip)
		return NF_ACCEPT;
	if (skb->pkt_type == PACKET_MULTICAST || skb->pkt_type == PACKET_BROADCAST) {
		skb->pkt_type = PACKET_HOST;
		this_cpu_inc(vip->counters->rewritten);
	}
	/* What the host says to itself reaches no other one. */
	if (!READ_ONCE(vip->options.gate) || state->in->flags & IFF_LOOPBACK)
		return NF_ACCEPT;
	return hook_gate(vip, skb, state);
}

static unsigned int hook_ipv4(void *priv, struct sk_buff *skb, const struct nf_hook_state *state)
{
	struct in6_addr daddr;

	ipv6_addr_set_v4mapped(ip_hdr(skb)->daddr, &daddr);
	return hook_packet(skb, state, &daddr);
}

static unsigned int hook_ipv6(void *priv, struct sk_buff *skb, const struct nf_hook_state *state)
{
	return hook_packet(skb, state, &ipv6_hdr(skb)->daddr);
}

static const struct nf_hook_ops hook_ops[] = {
	{
		.hook = hook_ipv4,
		.pf = NFPROTO_IPV4,
		.hooknum = NF_INET_PRE_ROUTING,
		.priority = NF_IP_PRI_RAW - 1,
	},
	{
		.hook = hook_ipv6,
		.pf = NFPROTO_IPV6,
		.hooknum = NF_INET_PRE_ROUTING,
		.priority = NF_IP6_PRI_RAW - 1,
	},
};

int hook_register(struct net *net)
{
	return nf_register_net_hooks(net, hook_ops, ARRAY_SIZE(hook_ops));
}

void hook_unregister(struct net *net)
{
	nf_unregister_net_hooks(net, hook_ops, ARRAY_SIZE(hook_ops));
}
