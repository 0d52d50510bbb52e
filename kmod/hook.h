/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef CLUSTERD_HOOK_H
#define CLUSTERD_HOOK_H

struct net;

int hook_register(struct net *net);
void hook_unregister(struct net *net);

#endif
