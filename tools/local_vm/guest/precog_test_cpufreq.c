// SPDX-License-Identifier: GPL-2.0
/*
 * A processor whose frequency can be set, for machines without one: QEMU has no cpufreq. For tests only.
 * The governors, their files and their errors are the kernel's own; only the hardware below is made up.
 */
#include <linux/cpufreq.h>
#include <linux/module.h>

static struct cpufreq_frequency_table table[] = {
	{ .frequency = 800000 },
	{ .frequency = 1600000 },
	{ .frequency = 2400000 },
	{ .frequency = 3200000, .flags = CPUFREQ_BOOST_FREQ },
	{ .frequency = CPUFREQ_TABLE_END },
};
static unsigned int current_index[NR_CPUS];

static int made_init(struct cpufreq_policy *policy)
{
	policy->freq_table = table;
	policy->cpuinfo.transition_latency = 10000;
	return 0;
}

static int made_target_index(struct cpufreq_policy *policy, unsigned int index)
{
	current_index[policy->cpu] = index;
	return 0;
}

static unsigned int made_get(unsigned int cpu)
{
	return table[current_index[cpu]].frequency;
}

static struct cpufreq_driver driver = {
	.name = "precog-test",
	.init = made_init,
	.verify = cpufreq_generic_frequency_table_verify,
	.target_index = made_target_index,
	.get = made_get,
	.attr = cpufreq_generic_attr,
};

static int __init made_register(void)
{
	int error = cpufreq_register_driver(&driver);

	if (!error)
		error = cpufreq_enable_boost_support();
	return error;
}

static void __exit made_unregister(void)
{
	cpufreq_unregister_driver(&driver);
}

module_init(made_register);
module_exit(made_unregister);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("A made-up processor for tests of cpufreq governors");
