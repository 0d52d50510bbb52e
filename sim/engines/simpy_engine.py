"""The workloads of src/workload.rs in SimPy, by callbacks: its fastest way."""

import json
import random
import statistics
import sys
import time

import simpy

ROUNDS = 3


class Workload:
    def __init__(self, env, stop_after):
        self.env, self.stop_after = env, stop_after
        self.happened = 0
        self.done = env.event()
        self.chance = random.Random(1)

    def after(self, delay, what, *about):
        timeout = self.env.timeout(delay)
        timeout.callbacks.append(lambda _: self.happen(what, about))

    def happen(self, what, about):
        self.happened += 1
        if self.happened == self.stop_after:
            self.done.succeed()
        what(*about)

    def exp(self, mean):
        return self.chance.expovariate(1 / mean)


class Hold(Workload):
    def __init__(self, env, stop_after, held):
        super().__init__(env, stop_after)
        for _ in range(held):
            self.after(self.exp(1e6), self.held)

    def held(self):
        self.after(self.exp(1e6), self.held)


class Race(Workload):
    REMEMBERED = 1 << 16

    def __init__(self, env, stop_after, hosts):
        super().__init__(env, stop_after)
        self.hosts, self.next = hosts, 0
        self.heard = [0] * self.REMEMBERED
        self.after(1, self.arrival)

    def arrival(self):
        connection = self.next
        self.next += 1
        self.heard[connection % self.REMEMBERED] = 0
        self.after(self.exp(1e6), self.arrival)
        for host in range(self.hosts):
            self.after(100_000 + self.exp(1.5e3), self.syn, connection, host)

    def syn(self, connection, host):
        rank = (host + connection) % self.hosts
        self.after(rank * 1_000_000 + self.exp(6e3), self.turn, connection, host)

    def turn(self, connection, host):
        if self.heard[connection % self.REMEMBERED] >> host & 1:
            return
        for other in range(self.hosts):
            if other != host:
                self.after(5_000 + self.exp(6e3), self.claim, connection, other)
        self.after(self.exp(1e6), self.served)

    def claim(self, connection, host):
        self.heard[connection % self.REMEMBERED] |= 1 << host

    def served(self):
        pass


def main():
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    workloads = [
        ("hold, 1 000 events", lambda env: Hold(env, events, 1_000)),
        ("hold, 100 000 events", lambda env: Hold(env, events, 100_000)),
    ] + [
        (f"race, {hosts} hosts", lambda env, hosts=hosts: Race(env, events, hosts))
        for hosts in (3, 16, 64)
    ]
    for name, make in workloads:
        rates = []
        for _ in range(ROUNDS):
            env = simpy.Environment()
            workload = make(env)
            begun = time.perf_counter()
            env.run(until=workload.done)
            rates.append(events / (time.perf_counter() - begun))
        row = {"workload": name, "engine": "simpy", "events_per_s": round(statistics.median(rates))}
        print(json.dumps(row))


if __name__ == "__main__":
    main()
