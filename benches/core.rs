//! What the core costs: frames to bytes and back, and each kind of event with
//! 10 000 and with 1 000 000 attempts in the table, in steady state. Times are
//! for one event each; `make bench-core` prints their medians.

#[path = "../tests/common/traffic.rs"]
mod traffic;

use std::hint::black_box;
use std::time::{Duration, Instant};

use clusterd::flow::{AttemptId, ClusterKey, NodeId};
use clusterd::wire::{self, Contest, Entry, Frame, Header, KeyRing};
use criterion::{Criterion, SamplingMode, Throughput};
use traffic::{Kind, Traffic};

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
        .without_plots()
        .configure_from_args();
    frames(&mut criterion);
    for attempts in [10_000, 1_000_000] {
        events(&mut criterion, attempts);
    }
    criterion.final_summary();
}

fn frames(criterion: &mut Criterion) {
    let ring = KeyRing::from(ClusterKey::public([10, 0, 0, 2].into()));
    let mut group = criterion.benchmark_group("frame");
    for count in [1, 40] {
        let header = Header { node: NodeId(1), incarnation: 1, sequence: 1, ..Header::default() };
        let own = |at| {
            let attempt = AttemptId([at; 16]);
            Entry::Own(Contest { attempt, port: 80, tries: 0, rank: 1 })
        };
        let frame = Frame { header, entries: (0..count).map(own).collect() };
        let bytes = wire::encode(&frame, &ring);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let mut buffer = Vec::new();
        group.bench_function(format!("encode {count}"), |bencher| {
            bencher.iter(|| wire::encode_into(black_box(&frame), &ring, &mut buffer));
        });
        let mut entries = Vec::new();
        group.bench_function(format!("decode {count}"), |bencher| {
            bencher.iter(|| wire::decode_into(black_box(&bytes), &ring, &mut entries));
        });
    }
}

fn events(criterion: &mut Criterion, attempts: usize) {
    let mut traffic = None;
    let mut group = criterion.benchmark_group(format!("{attempts} attempts"));
    group.sampling_mode(SamplingMode::Flat);
    for measured in Kind::ALL {
        group.bench_function(format!("{measured:?}"), |bencher| {
            let traffic = traffic.get_or_insert_with(|| Traffic::new(attempts));
            bencher.iter_custom(|wanted| {
                let (mut events, mut time) = (0, Duration::ZERO);
                while events < wanted {
                    traffic.round(|kind, act| {
                        let start = Instant::now();
                        let done = act();
                        if kind == measured {
                            time += start.elapsed();
                            events += done as u64;
                        }
                    });
                }
                time.mul_f64(wanted as f64 / events as f64)
            });
        });
    }
}
