// SPDX-License-Identifier: GPL-2.0-only
/*
 * The strict gate: which packets of a client may reach this host's TCP.
 *
 * All hosts get all packets to the virtual IP. One that acknowledges what another host has
 * said must not reach TCP here, which would answer with a RST (RFC 9293 3.10.7) and so end
 * the connection that the client has with the other host. It must not reach connection
 * tracking, either, which would take about half of all wrong numbers for right ones.
 *
 * What opens a connection passes: who answers it is not for the gate to say. What neither
 * acknowledges nor opens nor resets is dropped: TCP would drop it, too, where it has
 * a socket (RFC 9293 3.10.7.4), and answer it with a RST where it has none.
 */
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/netfilter.h>
#include <linux/tcp.h>
#include <net/netfilter/nf_socket.h>
#include <net/request_sock.h>
#include <net/tcp.h>

#include "cookie.h"
#include "gate.h"

#if IS_ENABLED(CONFIG_SYN_COOKIES)
/* Does it acknowledge a SYN cookie of this host? As cookie_v4_check(), cookie_v6_check(). */
static bool gate_is_cookie(const struct sock *listener, const struct sk_buff *skb,
			   const struct tcphdr *th, u8 pf)
{
	if (th->syn || th->rst || tcp_synq_no_recent_overflow(listener))
		return false;
	switch (pf) {
	case NFPROTO_IPV4:
		return cookie_v4_is_acked(ip_hdr(skb), th);
#if IS_ENABLED(CONFIG_IPV6)
	case NFPROTO_IPV6:
		return cookie_v6_is_acked(ipv6_hdr(skb), th);
#endif
	}
	return false;
}
#else
static bool gate_is_cookie(const struct sock *listener, const struct sk_buff *skb,
			   const struct tcphdr *th, u8 pf)
{
	return false;
}
#endif

/* Does what a segment acknowledges belong to @sk? */
static enum gate_verdict gate_judge_ack(struct sock *sk, const struct sk_buff *skb,
					const struct tcphdr *th, u8 pf)
{
	const u32 ack = ntohl(th->ack_seq);

	switch (READ_ONCE(sk->sk_state)) {
	case TCP_NEW_SYN_RECV:
		return ack == tcp_rsk(inet_reqsk(sk))->snt_isn + 1 ? GATE_ADMIT : GATE_WRONG;
	case TCP_LISTEN:
		return gate_is_cookie(sk, skb, th, pf) ? GATE_ADMIT : GATE_UNKNOWN;
	case TCP_TIME_WAIT:
		/* All has been acknowledged, so what the client still has to say says so. */
		return ack == tcp_twsk(sk)->tw_snd_nxt ? GATE_ADMIT : GATE_UNKNOWN;
	case TCP_SYN_SENT:
	case TCP_SYN_RECV:
		/* TCP would answer another number with a RST here, too. */
		return between(ack, READ_ONCE(tcp_sk(sk)->snd_una) + 1,
			       READ_ONCE(tcp_sk(sk)->snd_nxt)) ? GATE_ADMIT : GATE_UNKNOWN;
	default:
		/* Established, or was: TCP weighs the number itself (RFC 5961). */
		return GATE_ADMIT;
	}
}

static struct sock *gate_find(const struct sk_buff *skb, const struct nf_hook_state *state)
{
	switch (state->pf) {
	case NFPROTO_IPV4:
		return nf_sk_lookup_slow_v4(state->net, skb, state->in);
#if IS_ENABLED(CONFIG_IPV6)
	case NFPROTO_IPV6:
		return nf_sk_lookup_slow_v6(state->net, skb, state->in);
#endif
	}
	return NULL;
}

/* Where the TCP header begins, or 0 if there is none in this packet. */
static unsigned int gate_tcp_offset(const struct sk_buff *skb, u8 pf)
{
	unsigned int offset = 0;
	unsigned short fragment = 0;

	switch (pf) {
	case NFPROTO_IPV4:
		if (ip_hdr(skb)->protocol != IPPROTO_TCP ||
		    ip_hdr(skb)->frag_off & htons(IP_OFFSET))
			return 0;
		return skb_network_offset(skb) + ip_hdrlen(skb);
#if IS_ENABLED(CONFIG_IPV6)
	case NFPROTO_IPV6:
		if (ipv6_find_hdr(skb, &offset, -1, &fragment, NULL) != IPPROTO_TCP || fragment)
			return 0;
		return offset;
#endif
	}
	return 0;
}

/* Called under RCU, as all hooks. */
enum gate_verdict gate_judge(const struct sk_buff *skb, const struct nf_hook_state *state)
{
	const unsigned int offset = gate_tcp_offset(skb, state->pf);
	const struct tcphdr *th;
	struct tcphdr buffer;
	enum gate_verdict verdict;
	struct sock *sk;

	if (!offset)
		return GATE_ADMIT;
	th = skb_header_pointer(skb, offset, sizeof(buffer), &buffer);
	/* A first fragment that hides what it acknowledges in the second (RFC 3128). */
	if (!th)
		return GATE_UNKNOWN;
	if (!th->ack)
		return th->syn || th->rst ? GATE_ADMIT : GATE_UNKNOWN;
	sk = gate_find(skb, state);
	if (!sk)
		return GATE_UNKNOWN;
	verdict = gate_judge_ack(sk, skb, th, state->pf);
	sock_gen_put(sk);
	return verdict;
}
