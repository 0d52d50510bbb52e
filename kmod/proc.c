// SPDX-License-Identifier: GPL-2.0-only
/*
 * /proc/net/clusterd: the virtual IPs of a network namespace.
 *
 * Written, one command at a time: "+ADDRESS [gate] [log=GROUP]" adds an address or changes
 * its options, "-ADDRESS" removes it. Read, one line for each address. See README.md.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/inet.h>
#include <linux/proc_fs.h>
#include <linux/seq_file_net.h>
#include <net/ipv6.h>

#include "proc.h"
#include "vip.h"

#define PROC_NAME	"clusterd"

static int proc_parse_address(const char *text, struct in6_addr *addr)
{
	const char *end;
	__be32 ipv4;

	if (in4_pton(text, -1, (u8 *)&ipv4, -1, &end) && !*end &&
	    !ipv4_is_zeronet(ipv4) && !ipv4_is_loopback(ipv4) && !ipv4_is_multicast(ipv4) &&
	    !ipv4_is_lbcast(ipv4)) {
		ipv6_addr_set_v4mapped(ipv4, addr);
		return 0;
	}
	if (in6_pton(text, -1, addr->s6_addr, -1, &end) && !*end &&
	    ipv6_addr_type(addr) & IPV6_ADDR_UNICAST && !ipv6_addr_v4mapped(addr) &&
	    !ipv6_addr_loopback(addr))
		return 0;
	pr_err_ratelimited("'%s' is not a unicast address, as 10.0.0.2 or 2001:db8::2 is\n", text);
	return -EINVAL;
}

static int proc_parse_options(char *text, struct vip_options *options)
{
	static const char group[] = "log=";
	char *word;
	u16 number;

	*options = (struct vip_options){ .gate = false, .log_group = VIP_NO_LOG };
	while ((word = strsep(&text, " "))) {
		if (!strcmp(word, "gate")) {
			options->gate = true;
		} else if (!strncmp(word, group, strlen(group)) &&
			   !kstrtou16(word + strlen(group), 10, &number)) {
			options->log_group = number;
		} else {
			pr_err_ratelimited("option '%s' is not gate or log=GROUP (0 to 65535)\n",
					   word);
			return -EINVAL;
		}
	}
	return 0;
}

static int proc_command(struct net *net, char *text)
{
	const char verb = *text;
	struct vip_options options;
	struct in6_addr addr;
	char *word;
	int err;

	if (verb != '+' && verb != '-') {
		pr_err_ratelimited("'%s' is not +ADDRESS [gate] [log=GROUP], or -ADDRESS\n", text);
		return -EINVAL;
	}
	text++;
	word = strsep(&text, " ");
	err = proc_parse_address(word, &addr);
	if (err)
		return err;
	if (verb == '-' && text) {
		pr_err_ratelimited("-%s takes no options, found '%s'\n", word, text);
		return -EINVAL;
	}
	if (verb == '-')
		return vip_remove(net, &addr);
	err = proc_parse_options(text, &options);
	if (err)
		return err;
	return vip_add(net, &addr, options);
}

/* Called with a copy of what was written, up to a page, with a NUL at the end. */
static int proc_write(struct file *file, char *text, size_t size)
{
	struct net *net = seq_file_single_net(file->private_data);

	if (!file_ns_capable(file, net->user_ns, CAP_NET_ADMIN))
		return -EPERM;
	return proc_command(net, strim(text));
}

static void proc_show_vip(struct seq_file *seq, const struct vip *vip)
{
	const struct vip_counters count = vip_count(vip);
	const int log_group = READ_ONCE(vip->options.log_group);

	if (ipv6_addr_v4mapped(&vip->addr))
		seq_printf(seq, "%pI4", &vip->addr.s6_addr32[3]);
	else
		seq_printf(seq, "%pI6c", &vip->addr);
	seq_printf(seq, " gate=%d", READ_ONCE(vip->options.gate));
	if (log_group != VIP_NO_LOG)
		seq_printf(seq, " log=%d", log_group);
	seq_printf(seq, " rewritten=%lu wrong=%lu unknown=%lu\n",
		   count.rewritten, count.wrong, count.unknown);
}

static int proc_show(struct seq_file *seq, void *unused)
{
	struct clusterd_net *cn = clusterd_pernet(seq_file_single_net(seq));
	struct vip *vip;
	int bucket;

	rcu_read_lock();
	hash_for_each_rcu(cn->vips, bucket, vip, node)
		proc_show_vip(seq, vip);
	rcu_read_unlock();
	return 0;
}

int proc_register(struct net *net)
{
	if (!proc_create_net_single_write(PROC_NAME, 0644, net->proc_net, proc_show, proc_write,
					  NULL))
		return -ENOMEM;
	return 0;
}

void proc_unregister(struct net *net)
{
	remove_proc_entry(PROC_NAME, net->proc_net);
}
