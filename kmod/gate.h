/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef CLUSTERD_GATE_H
#define CLUSTERD_GATE_H

struct nf_hook_state;
struct sk_buff;

enum gate_verdict {
	GATE_ADMIT,
	GATE_WRONG,	/* of a flow that this host has answered, and its client chose another */
	GATE_UNKNOWN,	/* of no flow of this host */
};

enum gate_verdict gate_judge(const struct sk_buff *skb, const struct nf_hook_state *state);

#endif
