//! Every limit of the core, written once, with its unit and its reason.

/// Limits that hold for each tenant of a partition. Each refusal that comes of one names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one payload (input, output, message body, step result). 4 MiB is also what gRPC peers send at most.
    pub payload_bytes_max: usize,
    /// Messages waiting in or received by the live run of one inbox. A person cannot type more; a loop can.
    pub inbox_messages_max: usize,
    /// Runs waiting behind one key.
    pub key_queue_max: usize,
    /// Runs of one tenant that have not ended. Bounds what is resident.
    pub live_runs_max: usize,
    /// Runs that are kept as they are although they only wait; further ones are kept packed, in a quarter of the room or
    /// less. So what is busy pays nothing for it, and a million that sleep fit.
    pub runs_awake_max: usize,
    /// Entries in one task's journal. Replay reads them all, so this bounds the time of a replay.
    pub journal_entries_max: u32,
    /// Journal entries of one task that are pending at once.
    pub pending_entries_max: usize,
    /// Journal entries that may go before the last of one command. A function records more than this without an answer
    /// only in a loop, and then one durable write for so many costs little.
    pub entries_before_max: usize,
    /// Bytes of them together. What is larger pays for a write of its own with its size alone.
    pub entries_before_bytes_max: usize,
    /// Signals sent to one run and not yet taken.
    pub signals_max: usize,
    /// Runs one event may start or wake.
    pub event_fan_out_max: usize,
    /// How long a chain of runs may be that start each other by the events of their own start or end within one
    /// decision.
    pub trigger_depth_max: u32,
    /// Bytes of an event's data, which is kept inline. As much as a payload: it becomes one.
    pub event_bytes_max: usize,
    /// Bytes of an event's data over all the runs that get it as their own, in one decision.
    pub event_copies_bytes_max: usize,
    /// Bytes of a name: workflow, task, event, signal, label.
    pub name_bytes_max: usize,
    /// Bytes of a key, scope or idempotency key.
    pub key_bytes_max: usize,
    /// Idempotency keys remembered per tenant at once.
    pub idempotency_keys_max: usize,
    /// Milliseconds for which an idempotency key is remembered. Ten minutes is longer than any client's retry.
    pub idempotency_ttl_ms: u64,
    /// Workflows per tenant.
    pub workflows_max: usize,
    /// Workers per tenant.
    pub workers_max: usize,
    /// Tokens per tenant.
    pub tokens_max: usize,
    /// Rate limits per tenant, those that tasks bring along included: one for each of a hundred thousand customers.
    pub rates_max: usize,
    /// Runs one request may start.
    pub starts_max: usize,
    /// Runs one task may ask for by name.
    pub children_max: usize,
    /// Bytes of what is noted about a run or an event, which stays in memory with the run.
    pub metadata_bytes_max: usize,
    /// Bytes of one line of a task's log.
    pub log_bytes_max: usize,
    /// Milliseconds after its end for which a run may be replayed. Well below the time it is kept for, so that nothing of
    /// it is being removed meanwhile.
    pub replay_ms: u64,
    /// Milliseconds a worker that came back has to say what it has in hand, before that is given up. Hatchet's SDKs try
    /// again to say it at least every ten seconds.
    pub acknowledge_ms: u64,
    /// Milliseconds a worker reached over a wire is remembered while nothing connects it.
    pub worker_forget_ms: u64,
    /// Times in a row a task may lose its worker without progress before it is parked, so that a task which kills its
    /// worker cannot do so for ever. With the growing waits between them 60 take ten minutes: a deployment that
    /// restarts again and again for another reason should not leave everything it had in hand to a person.
    pub losses_max: u32,
    /// Milliseconds a reconnecting worker is given after a restart before its running attempts are given up.
    pub worker_grace_ms: u64,
    /// Bytes recorded before a tick fires no more timers.
    pub tick_bytes_max: usize,
    /// Bytes of a workflow's definition, as it is stored, and of the names a worker or a token brings along.
    pub definition_bytes_max: usize,
    /// Bytes of a reason or error as it is kept. It stays in memory with its run, and with each task it ended.
    pub reason_bytes_max: usize,
    /// Bytes of one document. It is written whole each time.
    pub document_bytes_max: usize,
    /// Milliseconds for which a document that was written stays marked. Longer than any load of a fact may take, see
    /// `fact_age_ms_max`, so that a decision never takes an older version for the present one.
    pub document_mark_ms: u64,
    /// Milliseconds after which a fact that was loaded for a decision is loaded again.
    pub fact_age_ms_max: u64,
    /// Documents, runs, events and messages one commit may carry, each.
    pub commit_parts_max: usize,
    /// Bytes of everything that comes with one commit. Kept twice (a document with its history, a message with its event)
    /// and with the copies its events may make, it still fits into one record of the log.
    pub commit_bytes_max: usize,
    /// Streams per tenant. Each is resident with its partitions and groups.
    pub streams_max: usize,
    /// Partitions of one stream: as many consumers of a group can be busy at once.
    pub stream_partitions_max: usize,
    /// Groups that read one stream.
    pub stream_groups_max: usize,
    /// Consumers of one group.
    pub stream_consumers_max: usize,
    /// Entries published, handed out or acknowledged by one command.
    pub stream_entries_max: usize,
    /// Bytes of one entry's body. It is read with many others at once.
    pub stream_entry_bytes_max: usize,
    /// Entries of one partition that are with its consumer. Bounds what is remembered of them, and is more than any
    /// consumer works on at once.
    pub stream_in_hand_max: u64,
    /// Timers fired by one tick. The rest follow in the next, so that one tick never stalls the partition.
    pub timers_per_tick_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            payload_bytes_max: 4 * 1024 * 1024,
            inbox_messages_max: 1_000,
            key_queue_max: 10_000,
            live_runs_max: 2_000_000,
            runs_awake_max: 4_096,
            journal_entries_max: 10_000,
            pending_entries_max: 1_000,
            entries_before_max: 16,
            entries_before_bytes_max: 256 * 1024,
            signals_max: 1_000,
            event_fan_out_max: 1_000,
            trigger_depth_max: 4,
            event_bytes_max: 4 * 1024 * 1024,
            event_copies_bytes_max: 32 * 1024 * 1024,
            name_bytes_max: 256,
            key_bytes_max: 1_024,
            idempotency_keys_max: 2_000_000,
            idempotency_ttl_ms: 10 * 60 * 1_000,
            workflows_max: 10_000,
            workers_max: 10_000,
            tokens_max: 10_000,
            rates_max: 100_000,
            starts_max: 1_000,
            children_max: 100_000,
            metadata_bytes_max: 64 * 1024,
            log_bytes_max: 16 * 1024,
            replay_ms: 15 * 24 * 60 * 60 * 1_000,
            acknowledge_ms: 12_000,
            worker_forget_ms: 24 * 60 * 60 * 1_000,
            losses_max: 60,
            worker_grace_ms: 10_000,
            tick_bytes_max: 1024 * 1024,
            definition_bytes_max: 256 * 1024,
            reason_bytes_max: 64 * 1024,
            document_bytes_max: 256 * 1024,
            document_mark_ms: 40_000,
            fact_age_ms_max: 20_000,
            commit_parts_max: 200,
            commit_bytes_max: 8 * 1024 * 1024,
            streams_max: 1_000,
            stream_partitions_max: 256,
            stream_groups_max: 100,
            stream_consumers_max: 1_000,
            stream_entries_max: 1_000,
            stream_entry_bytes_max: 256 * 1024,
            stream_in_hand_max: 10_000,
            timers_per_tick_max: 1_000,
        }
    }
}
