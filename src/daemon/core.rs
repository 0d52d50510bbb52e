//! The protocol core as the hot loop drives it, recorded if that was asked for.
//!
//! Without a recorder each call is the core's own and one comparison.

use std::borrow::Cow;
use std::ops::Deref;

use clusterd::flow::{FlowKey, ServicePort};
use clusterd::protocol::{Config, Instant, Listener, Load, Node, Output, Syn, Ticket};
use clusterd::recording::{Input, Record, Turn, Work};
use clusterd::wire::{Frame, Header};

use super::recorder::Recorder;

/// A node, and the recorder of what it is told and what it says.
///
/// What only looks at the node goes to it directly. What changes it is a method here, of the
/// same name and with the same arguments.
#[derive(Debug)]
pub struct Core {
    node: Node,
    recorder: Option<Recorder>,
    /// When the kernel got what the core is told next.
    arrived: Option<Instant>,
    turn: Turn,
}

impl Deref for Core {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Core {
    /// A node that starts at time 0.
    pub fn new(config: Config, recorder: Option<Recorder>) -> Self {
        let node = Node::new(config, Instant::default());
        Self { node, recorder, arrived: None, turn: Turn::default() }
    }

    /// All is recorded.
    pub fn is_recorded(&self) -> bool {
        self.recorder.is_some()
    }

    /// Records that there was no room for.
    pub fn unrecorded(&self) -> u64 {
        self.recorder.as_ref().map_or(0, |recorder| recorder.unrecorded)
    }

    /// When the kernel got the packet or frame that the core is told of next.
    pub fn arrived(&mut self, at: Option<Instant>) {
        self.arrived = at;
    }

    /// A turn begins.
    pub fn turn_begins(&mut self, slept: Instant, woke: Instant, timer: bool) {
        self.turn = Turn { slept, woke, timer, ..Turn::default() };
    }

    /// So many things of this kind were done in this turn since then.
    pub fn worked(
        &mut self,
        on: fn(&mut Turn) -> &mut Work,
        count: usize,
        began: Instant,
        now: Instant,
    ) {
        on(&mut self.turn).add(count as u32, now.since(began));
    }

    /// Verdicts of which some were to accept have been given from then on.
    pub fn answered(&mut self, began: Option<Instant>) {
        self.turn.answering = self.turn.answering.or(began);
    }

    /// The turn has ended.
    pub fn turn_ends(&mut self, now: Instant) {
        if let Some(recorder) = &mut self.recorder {
            recorder.record(&Record::Turn(Turn { ended: now, ..self.turn }));
            recorder.turn_ended(now);
        }
    }

    fn note<'a>(&mut self, at: Instant, input: impl FnOnce() -> Input<'a>) {
        if let Some(recorder) = &mut self.recorder {
            let arrived = self.arrived.take();
            recorder.record(&Record::Input { at, arrived, input: input() });
        }
    }

    pub fn adopt(&mut self, flow: FlowKey) {
        self.note(Instant::default(), || Input::Adopt { flow });
        self.node.adopt(flow);
    }

    pub fn handle_frame(&mut self, now: Instant, frame: &Frame) {
        self.note(now, || Input::Frame(Cow::Borrowed(frame)));
        self.node.handle_frame(now, frame);
    }

    pub fn handle_stranger(&mut self, now: Instant, major: u8, header: &Header) {
        self.note(now, || Input::Stranger { major, header: *header });
        self.node.handle_stranger(now, major, header);
    }

    pub fn handle_syn(&mut self, now: Instant, syn: Syn) {
        self.note(now, || Input::Syn(syn));
        self.node.handle_syn(now, syn);
    }

    pub fn handle_datagram(&mut self, now: Instant, ticket: Ticket, flow: FlowKey) {
        self.note(now, || Input::Datagram { ticket, flow });
        self.node.handle_datagram(now, ticket, flow);
    }

    pub fn handle_unasked(&mut self, now: Instant, flow: FlowKey, ticket: Ticket) {
        self.note(now, || Input::Unasked { flow, ticket });
        self.node.handle_unasked(flow, ticket);
    }

    pub fn handle_syn_ack(&mut self, now: Instant, flow: FlowKey, client_isn: u32, isn: u32) {
        self.note(now, || Input::SynAck { flow, client_isn, isn });
        self.node.handle_syn_ack(now, flow, client_isn, isn);
    }

    pub fn handle_ack(&mut self, now: Instant, flow: FlowKey, number: u32, ticket: Option<Ticket>) {
        self.note(now, || Input::Ack { flow, number, ticket });
        self.node.handle_ack(now, flow, number, ticket);
    }

    pub fn handle_refusal(&mut self, now: Instant, flow: FlowKey, client_isn: u32, rst: Ticket) {
        self.note(now, || Input::Refusal { flow, client_isn, rst });
        self.node.handle_refusal(now, flow, client_isn, rst);
    }

    pub fn handle_listener(&mut self, now: Instant, service: ServicePort, listener: Listener) {
        self.note(now, || Input::Listener { service, listener });
        self.node.handle_listener(now, service, listener);
    }

    pub fn handle_load(&mut self, now: Instant, load: &Load) {
        self.note(now, || Input::Load(*load));
        self.node.handle_load(now, load);
    }

    pub fn handle_flow_ended(&mut self, now: Instant, flow: FlowKey) {
        self.note(now, || Input::FlowEnded { flow });
        self.node.handle_flow_ended(now, flow);
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.note(now, || Input::Timeout);
        self.node.handle_timeout(now);
    }

    /// Until when the driver may wait; what it decides by is recorded, other looks are not.
    pub fn wait_until(&mut self) -> Instant {
        let until = self.node.poll_timeout();
        if let Some(recorder) = &mut self.recorder {
            recorder.record(&Record::Wait(until));
        }
        until
    }

    pub fn has_accepted(&mut self, flow: &FlowKey, isn: u32) -> bool {
        let accepted = self.node.has_accepted(flow, isn);
        if let Some(recorder) = &mut self.recorder {
            recorder.record(&Record::HasAccepted { flow: *flow, isn, accepted });
        }
        accepted
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.node.poll_output();
        if let (Some(recorder), Some(output)) = (&mut self.recorder, &output) {
            recorder.record(&Record::Output(Cow::Borrowed(output)));
        }
        output
    }

    pub fn poll_frame(&mut self, now: Instant) -> Option<&Frame> {
        let Self { node, recorder, .. } = self;
        let frame = node.poll_frame(now);
        if let Some(recorder) = recorder {
            recorder.record(&Record::Send { at: now, frame: frame.map(Cow::Borrowed) });
        }
        frame
    }

    pub fn leave(&mut self) -> Frame {
        let frame = self.node.leave();
        if let Some(recorder) = &mut self.recorder {
            recorder.record(&Record::Leave(Cow::Borrowed(&frame)));
        }
        frame
    }
}
