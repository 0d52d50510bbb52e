// SPDX-License-Identifier: GPL-2.0-only
/*
 * clusterd: frames to a virtual IP that several hosts answer together.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <net/netns/generic.h>

#include "proc.h"
#include "vip.h"

unsigned int clusterd_net_id __read_mostly;
unsigned int clusterd_vips_max __read_mostly = 64;

static int vips_max_set(const char *value, const struct kernel_param *param)
{
	unsigned int number;
	int err = kstrtouint(value, 0, &number);

	if (err || number < 1 || number > VIPS_MAX) {
		pr_err("vips_max=%s is not a number from 1 to %u\n", value, VIPS_MAX);
		return -EINVAL;
	}
	WRITE_ONCE(*(unsigned int *)param->arg, number);
	return 0;
}

static const struct kernel_param_ops vips_max_ops = {
	.set = vips_max_set,
	.get = param_get_uint,
};

module_param_cb(vips_max, &vips_max_ops, &clusterd_vips_max, 0644);
MODULE_PARM_DESC(vips_max, "Virtual IPs in each network namespace, 1 to 1024 (default 64)");

static int __net_init clusterd_net_init(struct net *net)
{
	struct clusterd_net *cn = clusterd_pernet(net);

	mutex_init(&cn->lock);
	hash_init(cn->vips);
	return proc_register(net);
}

static void __net_exit clusterd_net_exit(struct net *net)
{
	proc_unregister(net);
	vip_remove_all(net);
}

static struct pernet_operations clusterd_net_ops = {
	.init = clusterd_net_init,
	.exit = clusterd_net_exit,
	.id = &clusterd_net_id,
	.size = sizeof(struct clusterd_net),
};

static int __init clusterd_init(void)
{
	return register_pernet_subsys(&clusterd_net_ops);
}

static void __exit clusterd_exit(void)
{
	unregister_pernet_subsys(&clusterd_net_ops);
	rcu_barrier();	/* for vip_free_rcu() */
}

module_init(clusterd_init);
module_exit(clusterd_exit);

MODULE_DESCRIPTION("Virtual IP on several hosts: packet type of group frames, strict ACK gate");
MODULE_AUTHOR("The clusterd authors");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0");
