//! One connection: multiplexes requests, notifications and probes over a byte stream.

use std::{collections::HashMap, sync::Arc};

use bytes::BytesMut;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};
use uuid::Uuid;

use super::{Command, SessionConfig, Shared};
use crate::{
    db::{
        Cache, MonitorMethod, OvsdbError, TableSchema,
        frame::Framer,
        monitor::Update,
        rpc::{self, Message},
        schema::{DbSchema, SchemaError},
    },
    reconnect::End,
};

/// Free space kept for each read, in bytes.
const READ_CHUNK: usize = 64 << 10;
/// Bytes waiting to be written above which no further request is taken from the queue.
const WRITE_HIGH: usize = 1 << 20;
/// Requests without reply above which no further request is taken from the queue.
const MAX_PENDING: usize = 1024;
const MONITOR_ID: &str = "cache";

type Reply = oneshot::Sender<Result<Value, OvsdbError>>;

pub(super) struct Connection<'a, S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    framer: Framer,
    out: BytesMut,
    next_id: u64,
    pending: HashMap<u64, Reply>,
    /// The request of the handshake that is out, and its reply.
    awaited: Option<u64>,
    answer: Option<Result<Value, Value>>,
    /// Updates that came with the monitor's reply, in one read: they follow what the reply says. None once that is loaded.
    early: Option<Vec<Update>>,
    /// When to probe, or, while a probe is out, when to give up.
    deadline: Instant,
    probe: Option<u64>,
    config: &'a SessionConfig,
    shared: &'a Shared,
    last_txn: &'a mut Uuid,
}

impl<'a, S: AsyncRead + AsyncWrite> Connection<'a, S> {
    pub(super) fn new(io: S, config: &'a SessionConfig, shared: &'a Shared, last_txn: &'a mut Uuid) -> Self {
        let (reader, writer) = tokio::io::split(io);
        Self {
            reader,
            writer,
            framer: Framer::new(config.max_message),
            out: BytesMut::new(),
            next_id: 0,
            pending: HashMap::new(),
            awaited: None,
            answer: None,
            early: Some(Vec::new()),
            deadline: Instant::now() + config.probe_interval,
            probe: None,
            config,
            shared,
            last_txn,
        }
    }

    /// Fetches the schema and starts the monitor.
    pub(super) async fn handshake(&mut self) -> Result<(MonitorMethod, bool), OvsdbError> {
        let schema = self
            .call("get_schema", &json!([self.config.db]))
            .await?
            .map_err(|error| OvsdbError::Refused { method: "get_schema", error: error.to_string() })?;
        let schemas = self.monitored(&DbSchema::from_json(schema)?)?;
        let tables: Vec<(String, Vec<String>)> = schemas
            .iter()
            .map(|table| {
                let columns = table.columns().iter().map(|(name, _)| name.to_string()).collect();
                (table.name.to_string(), columns)
            })
            .collect();
        let fresh = Cache::new(schemas);
        if !self.shared.cache.read().same_schema(&fresh) {
            *self.last_txn = Uuid::nil();
        }
        let mut methods = MonitorMethod::NEWEST_FIRST
            .into_iter()
            .skip_while(|method| *method != self.config.newest_monitor);
        loop {
            let Some(method) = methods.next() else {
                return Err(OvsdbError::Protocol("the server knows no monitor method".to_owned()));
            };
            let params = method.params(&self.config.db, MONITOR_ID, &tables, *self.last_txn);
            match self.call(method.name(), &params).await? {
                Ok(result) => {
                    let initial = method.read_reply(result)?;
                    let resumed = initial.incremental && !self.last_txn.is_nil();
                    self.load(fresh, &initial.rows, method.is_v2(), resumed)?;
                    *self.last_txn = initial.txn;
                    for update in self.early.take().into_iter().flatten() {
                        self.update(&update)?;
                    }
                    return Ok((method, resumed));
                }
                Err(error) if is_unknown_method(&error) => {
                    tracing::debug!(method = method.name(), "monitor method not known to the server");
                }
                Err(error) => {
                    return Err(OvsdbError::Refused { method: method.name(), error: error.to_string() });
                }
            }
        }
    }

    fn monitored(&self, schema: &DbSchema) -> Result<Vec<Arc<TableSchema>>, SchemaError> {
        self.config
            .tables
            .iter()
            .map(|wanted| {
                let table = schema.table(&wanted.table)?;
                if wanted.columns.is_empty() {
                    return Ok(Arc::new(table.clone()));
                }
                let optional = wanted.optional.iter().filter(|column| table.position(column).is_some());
                let columns: Vec<&str> = wanted.columns.iter().chain(optional).map(String::as_str).collect();
                Ok(Arc::new(table.restrict(&columns)?))
            })
            .collect()
    }

    fn load(&mut self, mut fresh: Cache, rows: &Value, v2: bool, resumed: bool) -> Result<(), OvsdbError> {
        let changes = if resumed {
            let result = self.shared.cache.write().apply(rows, v2);
            result.inspect_err(|_| *self.last_txn = Uuid::nil())?
        } else {
            fresh.apply(rows, v2)?;
            let mut cache = self.shared.cache.write();
            let changes = cache.changes_to(&fresh);
            *cache = fresh;
            changes
        };
        self.shared.publish(changes);
        Ok(())
    }

    /// A request of the handshake: pumps until its reply is in.
    async fn call(&mut self, method: &str, params: &Value) -> Result<Result<Value, Value>, OvsdbError> {
        self.awaited = Some(self.request(method, params));
        loop {
            if let Some(outcome) = self.answer.take() {
                return Ok(outcome);
            }
            self.pump(None).await?;
        }
    }

    /// Serves requests until the connection is lost or no handle is left.
    pub(super) async fn serve(&mut self, queue: &mut mpsc::Receiver<Command>) -> End<OvsdbError> {
        let error = loop {
            match self.pump(Some(queue)).await {
                Ok(true) => {}
                Ok(false) => return End::Finished,
                Err(error) => break error,
            }
        };
        for (_, reply) in self.pending.drain() {
            let _ = reply.send(Err(OvsdbError::ConnectionLost(error.reason())));
        }
        End::Lost(error)
    }

    fn request(&mut self, method: &str, params: &Value) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.out.extend_from_slice(&rpc::request(id, method, params));
        id
    }

    /// Does whatever can be done next. False when no handle is left.
    async fn pump(&mut self, queue: Option<&mut mpsc::Receiver<Command>>) -> Result<bool, OvsdbError> {
        self.framer.buffer().reserve(READ_CHUNK);
        let take = queue.is_some() && self.out.len() < WRITE_HIGH && self.pending.len() < MAX_PENDING;
        let next_command = async {
            match queue {
                Some(queue) => queue.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = self.reader.read_buf(self.framer.buffer()) => {
                match read {
                    Ok(0) => return Err(OvsdbError::ConnectionLost("closed by the server".to_owned())),
                    Ok(_) => self.deadline = Instant::now() + self.config.probe_interval,
                    Err(error) => return Err(OvsdbError::ConnectionLost(error.to_string())),
                }
                self.probe = None;
                while let Some(message) = self.framer.next_message()? {
                    self.receive(rpc::decode(&message)?)?;
                }
            }
            written = self.writer.write_buf(&mut self.out), if !self.out.is_empty() => {
                if let Err(error) = written {
                    return Err(OvsdbError::ConnectionLost(error.to_string()));
                }
            }
            command = next_command, if take => match command {
                Some(command) => {
                    let id = self.request("transact", &command.params);
                    self.pending.insert(id, command.reply);
                }
                None => return Ok(false),
            },
            () = sleep_until(self.deadline) => {
                if self.probe.is_some() {
                    return Err(OvsdbError::ConnectionLost(format!(
                        "no sign of life for {:?}",
                        self.config.probe_interval * 2
                    )));
                }
                self.probe = Some(self.request("echo", &json!([])));
                self.deadline = Instant::now() + self.config.probe_interval;
            }
        }
        Ok(true)
    }

    fn receive(&mut self, message: Message) -> Result<(), OvsdbError> {
        match message {
            Message::Response { id, outcome } => match self.pending.remove(&id) {
                Some(reply) => {
                    let outcome = outcome.map_err(|error| OvsdbError::Refused {
                        method: "transact",
                        error: error.to_string(),
                    });
                    // The caller may have given up.
                    let _ = reply.send(outcome);
                }
                None if self.awaited.take_if(|awaited| *awaited == id).is_some() => {
                    self.answer = Some(outcome)
                }
                // A probe's: that something came is all that it is for.
                None => {}
            },
            Message::Request { id, method } => {
                let outcome = if method == "echo" { Ok(json!([])) } else { Err("unknown method") };
                self.out.extend_from_slice(&rpc::reply(&id, outcome));
            }
            Message::Notification { method, params } => {
                let Some(update) = Update::read(&method, params)? else { return Ok(()) };
                match &mut self.early {
                    Some(early) => early.push(update),
                    None => self.update(&update)?,
                }
            }
        }
        Ok(())
    }

    fn update(&mut self, update: &Update) -> Result<(), OvsdbError> {
        // Any update that does not fit means that the cache has diverged: load it in full next time.
        let result = self.shared.cache.write().apply(&update.rows, update.v2);
        let changes = result.inspect_err(|_| *self.last_txn = Uuid::nil())?;
        *self.last_txn = update.txn;
        self.shared.publish(changes);
        Ok(())
    }
}

fn is_unknown_method(error: &Value) -> bool {
    let text = error.as_str().or_else(|| error.get("error").and_then(Value::as_str)).unwrap_or_default();
    text == "unknown method" || text == "unknown-method"
}
