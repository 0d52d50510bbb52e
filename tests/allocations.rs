//! In steady state the core allocates nothing: not for an event, not for a frame
//! read or written. HELLO is the exception: four times a second a node lists
//! the peers that it hears and the ports that it cannot serve.

// The cluster is of no use here.
#[path = "common/traffic.rs"]
mod traffic;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use clusterd::flow::{AttemptId, ClusterKey};
use clusterd::wire::{self, Contest, Entry, Frame, Header, KeyRing};
use traffic::{Kind, Traffic};

/// The system's allocator, which counts for each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // A thread that ends frees its memory when this is gone already.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: all memory is the system allocator's; counting allocates none.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `act` returns, and how often it allocated.
fn counted<T>(act: impl FnOnce() -> T) -> (T, usize) {
    let before = ALLOCATIONS.get();
    let value = act();
    (value, ALLOCATIONS.get() - before)
}

/// Old attempts are forgotten as new ones come, so every kind of event happens
/// thousands of times after each slot of the table has been used.
#[test]
fn no_event_allocates_in_steady_state() {
    let mut traffic = Traffic::new(4_000);
    let mut events = Kind::ALL.map(|kind| (kind, 0));
    for _ in 0..100 {
        traffic.round(|kind, act| {
            let (done, allocations) = counted(act);
            assert_eq!(allocations, 0, "in {done} events of {kind:?}");
            events[kind as usize].1 += done;
        });
    }
    assert!(events.iter().all(|&(_, count)| count >= 10_000), "{events:?}");
}

#[test]
fn no_frame_about_attempts_allocates() {
    let ring = KeyRing::from(ClusterKey::public([10, 0, 0, 2].into()));
    let contest = Contest { attempt: AttemptId([7; 16]), port: 80, tries: 0, rank: 1 };
    let entries = [Entry::Claim(contest), Entry::Own(contest), Entry::Release(contest)];
    let frame = Frame { header: Header::default(), entries: entries.into() };
    let (mut bytes, mut heard) = (Vec::new(), Vec::new());
    let mut travel = || {
        wire::encode_into(&frame, &ring, &mut bytes);
        wire::decode_into(&bytes, &ring, &mut heard).expect("our own frame");
    };
    travel();
    assert_eq!(counted(travel).1, 0);
    assert_eq!(heard, frame.entries);
}

/// The test would notice.
#[test]
fn an_allocation_is_counted() {
    assert_eq!(counted(|| Box::new(7)).1, 1);
}
