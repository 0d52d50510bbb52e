//! What the page says beside experiments.

/// How it looks: light or dark, on screens and on paper.
pub const STYLE: &str = "
:root{color-scheme:light dark;--text:#222;--page:#fff;--soft:#666;--line:#bbb;--code:#f3f3f3;--yes:#070;--no:#a00}
@media(prefers-color-scheme:dark){:root{--text:#ddd;--page:#181818;--soft:#aaa;--line:#555;--code:#262626;--yes:#7c7;--no:#f88}}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:var(--text);background:var(--page)}
h2{margin-top:3rem}h3{margin:1.5rem 0 .3rem}
figure{margin:1rem 0;background:#fff;color:#222;padding:.5rem;border:1px solid var(--line)}
figure svg{display:block;max-width:100%;height:auto}figcaption{font-size:14px;padding:.3rem .5rem}
table{border-collapse:collapse;font-size:13px;margin:.7rem 0;display:block;overflow-x:auto}
caption{text-align:left;font-weight:bold;padding:.2rem 0}
td,th{border:1px solid var(--line);padding:2px 8px;text-align:right;font-weight:normal}
th[scope=col]{font-weight:bold}th[scope=row],.left td,.left th{text-align:left}
code,pre{font-size:12px;background:var(--code)}pre{padding:8px;white-space:pre-wrap;overflow-wrap:anywhere}
a{color:inherit}.yes strong{color:var(--yes)}.no strong{color:var(--no)}.unknown strong,.evidence{color:var(--soft)}
@media print{:root{--text:#000;--page:#fff;--soft:#444;--line:#888;--code:#fff}body{max-width:none;font-size:11pt}
h2,h3{break-after:avoid}figure,tr{break-inside:avoid}}
";

/// For those who know nothing of all this.
pub const INTRODUCTION: &str = "\
<p>A service on the internet has an address, and usually one machine behind it: if that machine dies, the \
service is gone. With <em>clusterd</em> several machines (<em>hosts</em>) of one network segment share one address, \
the <em>virtual IP</em>. None of them is in charge. The network is set up so that whatever a client sends to the \
virtual IP reaches all hosts.</p>
<p>A TCP connection begins with three messages: the client's <em>SYN</em> (I want to talk), a host's <em>SYN-ACK</em> (I \
listen; here is the number with which I begin to count), and the client's ACK, which repeats that number. As all \
hosts see the SYN, they must agree which one answers, and within a fraction of a millisecond, as the client waits. \
They do so by <em>claims</em>: short messages to all other hosts that say “this one is mine”.</p>
<p>Messages take time, get late and get lost. So two things can go wrong. If no host answers, the client must ask again, \
after a second. If two answer, the client gets a <em>second SYN-ACK</em> (a <em>duplicate</em>) with another number. \
It goes on with the first one. The host that it has not chosen then sees an ACK with a number that is not its \
own; the rules of TCP make it send a <em>RST</em>, “no such connection”, and that would end the good \
connection of the other host. A <em>guard</em>, some rules of the packet filter, keeps such a RST from leaving.</p>
<p>This page asks how often each of that happens, what it costs, and how other ways to share an address \
compare: the claim rule of the first clusterd (2000: whoever sees no other claim when its own \
leaves has won), a fixed <em>split</em> of the clients among hosts (Hubert 2001), the kernel's \
<em>hash</em> (CLUSTERIP and xt_cluster, with the numbers of hosts given by hand), and <em>Saru</em> (an \
elected host gives out blocks of clients).</p>
<p>Everything was simulated. The hosts of clusterd run the production code of the protocol; network, kernels, \
clients and services are models, and so are the other rules.</p>";

/// What all figures have in common.
pub const READING: &str = "\
<p>For each experiment there is the question and what was done; statements, each with whether <em>this run</em> bears it \
out and the numbers; figures; what the model leaves out; all numbers; and commands that give \
them again. Statements are the same in every report, the verdicts are computed.</p>
<p>A filled mark is a mean over runs. An open triangle says that nothing was seen in all runs: it is at three divided by the \
number of connections, below which the true rate is with 95 % confidence. <em>D</em> is the time that a claim settles \
before its host answers, <em>S</em> (a slot) the time for which each host waits for the one before it in the order that all \
compute alike (<em>ranks</em>). A claim is <em>eager</em> if the first in that order answers at once, D = 0. The \
99th percentile (p99) is the time that one of a hundred connections exceeds.</p>";

/// Before the commands of an experiment.
pub const COMMANDS: &str = "\
One command for each curve. A sweep writes a file for each point, which <code>clusterd-sim merge DIR --out FILE.csv</code> \
joins; a run writes <code>runs.csv</code>, <code>connections.csv</code> and <code>timeseries.csv</code>.";

/// What the numbers are worth.
pub const TRUST: &str = "\
<p>What is taken from the program itself: every decision of clusterd's hosts, every byte of its claims, and the order \
of steps in which its daemon reads, decides and sends. What is modelled: delays of interrupts, wake-ups and \
timers, switch and hub, connection tracking and TCP of hosts and clients, and the services. The shapes \
of the modelled delays are those of measurements in virtual machines; real network cards and \
switches have other ones.</p>
<p>So trust comparisons within a figure more than its numbers, and numbers about the protocol (how many claims, \
who answers when a message is lost) more than those about time (how many microseconds). A rate such as 5 second answers per \
100 000 connections rests on the tails of the modelled delays and may be wrong by a factor of ten; that it falls \
with the settling time may not.</p>
<p>Checks that do not rest on clusterd: the mean response time of hosts that get connections at random is compared with \
the formula of queueing theory in the experiment about load; the two halves into which silent \
retraction divides connections follow from a coin.</p>";

/// Before the comparison with a lab.
pub const LAB: &str = "\
<p>The same daemon, on real kernels in network namespaces of one machine (<code>clusterd lab run --record</code>), and the \
simulator with the arrivals, delays and costs measured there: both did the same load. A difference has a band, fixed before \
the first comparison, and the last column says where it is left.</p>
<p>Why they differ: the lab's hosts, clients and services share the processors of one machine, so what is busy delays all the others; \
a virtual cable has no ports whose queues could fill; each step of the daemon takes its mean time in the simulator, so its \
distribution of connect times is narrower (late at p10, early at p90). In which order a claim reaches the hosts is not modelled, \
which shows in the shares of hosts that race.</p>";

/// In its place, if there is none.
pub const NO_LAB: &str = "\
<p>This page has no comparison with the real daemon: nothing on it was measured on a network. <code>clusterd lab run --record DIR</code> \
measures one, and <code>clusterd-sim report --lab DIR</code> takes it into the page.</p>";
