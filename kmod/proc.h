/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef CLUSTERD_PROC_H
#define CLUSTERD_PROC_H

struct net;

int proc_register(struct net *net);
void proc_unregister(struct net *net);

#endif
