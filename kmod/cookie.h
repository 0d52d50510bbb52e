/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef CLUSTERD_COOKIE_H
#define CLUSTERD_COOKIE_H

/*
 * Before Linux 6.8 __cookie_v4_check() and __cookie_v6_check() had a third parameter: the
 * acknowledgment minus 1. The caller that fits the kernel's prototype is chosen by its type.
 */
#include <net/tcp.h>

typedef int cookie_v4_check_fn(const struct iphdr *ip, const struct tcphdr *th);
typedef int cookie_v4_check_old_fn(const struct iphdr *ip, const struct tcphdr *th, u32 cookie);

static inline bool cookie_v4_call(cookie_v4_check_fn *check, const struct iphdr *ip,
				  const struct tcphdr *th)
{
	return check(ip, th);
}

static inline bool cookie_v4_call_old(cookie_v4_check_old_fn *check, const struct iphdr *ip,
				      const struct tcphdr *th)
{
	return check(ip, th, ntohl(th->ack_seq) - 1);
}

/* Does a segment acknowledge a SYN cookie of this host? */
static inline bool cookie_v4_is_acked(const struct iphdr *ip, const struct tcphdr *th)
{
	return __builtin_choose_expr(__same_type(__cookie_v4_check, cookie_v4_check_fn),
				     cookie_v4_call, cookie_v4_call_old)(__cookie_v4_check, ip, th);
}

#if IS_ENABLED(CONFIG_IPV6)
typedef int cookie_v6_check_fn(const struct ipv6hdr *ip, const struct tcphdr *th);
typedef int cookie_v6_check_old_fn(const struct ipv6hdr *ip, const struct tcphdr *th, u32 cookie);

static inline bool cookie_v6_call(cookie_v6_check_fn *check, const struct ipv6hdr *ip,
				  const struct tcphdr *th)
{
	return check(ip, th);
}

static inline bool cookie_v6_call_old(cookie_v6_check_old_fn *check, const struct ipv6hdr *ip,
				      const struct tcphdr *th)
{
	return check(ip, th, ntohl(th->ack_seq) - 1);
}

static inline bool cookie_v6_is_acked(const struct ipv6hdr *ip, const struct tcphdr *th)
{
	return __builtin_choose_expr(__same_type(__cookie_v6_check, cookie_v6_check_fn),
				     cookie_v6_call, cookie_v6_call_old)(__cookie_v6_check, ip, th);
}
#endif

#endif
