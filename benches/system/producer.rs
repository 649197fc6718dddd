//! The least that is needed to produce by librdkafka's C API, with and without transactions.

use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::bindings as sys;
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::types::{RDKafka, RDKafkaRespErr, RDKafkaType};

use crate::raw::{BatchConsumer, Message, Outcome, PartitionList, check, check_error};

type FieldValue = sys::rd_kafka_vu_s__bindgen_ty_1;

/// Which delivery reports a producer asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reports {
    /// A callback for each message, served by `rd_kafka_flush` and `rd_kafka_poll`.
    Callback,
    /// An event for each group of messages.
    Events,
    /// Events for failures only: delivered messages are freed on librdkafka's own thread.
    ErrorEvents,
}

pub struct RawProducer {
    topic: *mut sys::rd_kafka_topic_t,
    events: *mut sys::rd_kafka_queue_t,
    reports: Reports,
    client: Client<DefaultClientContext>,
}

// SAFETY: librdkafka handles may be used from any thread and from several at a time.
unsafe impl Send for RawProducer {}
unsafe impl Sync for RawProducer {}

unsafe extern "C" fn on_delivery(_: *mut RDKafka, _: *const Message, _: *mut c_void) {}

impl RawProducer {
    pub fn new(config: &ClientConfig, topic: &str, reports: Reports) -> Outcome<RawProducer> {
        let mut config = config.clone();
        config.set(
            "delivery.report.only.error",
            if reports == Reports::ErrorEvents { "true" } else { "false" },
        );
        let native = config.create_native_config().map_err(|e| e.to_string())?;
        // SAFETY: the configuration is alive.
        unsafe {
            match reports {
                Reports::Callback => sys::rd_kafka_conf_set_dr_msg_cb(native.ptr(), Some(on_delivery)),
                Reports::Events | Reports::ErrorEvents => sys::rd_kafka_conf_set_events(
                    native.ptr(),
                    sys::RD_KAFKA_EVENT_DR | sys::RD_KAFKA_EVENT_ERROR,
                ),
            }
        }
        let client = Client::new(&config, native, RDKafkaType::RD_KAFKA_PRODUCER, DefaultClientContext)
            .map_err(|e| e.to_string())?;
        let name = CString::new(topic).map_err(|e| e.to_string())?;
        // SAFETY: the client is alive; a null topic configuration means the defaults of the client.
        let (topic, events) = unsafe {
            (
                sys::rd_kafka_topic_new(client.native_ptr(), name.as_ptr(), ptr::null_mut()),
                sys::rd_kafka_queue_get_main(client.native_ptr()),
            )
        };
        Ok(RawProducer { topic, events, reports, client })
    }

    pub fn native(&self) -> *mut RDKafka {
        self.client.native_ptr()
    }

    /// Produces one record to an explicit partition; waits when the queue is full.
    pub fn produce(&self, partition: i32, key: &[u8], payload: &[u8]) -> Outcome<()> {
        loop {
            // SAFETY: both slices are read before the call returns (`F_COPY`).
            let refused = unsafe {
                sys::rd_kafka_produce(
                    self.topic,
                    partition,
                    sys::RD_KAFKA_MSG_F_COPY,
                    payload.as_ptr() as *mut c_void,
                    payload.len(),
                    key.as_ptr().cast(),
                    key.len(),
                    ptr::null_mut(),
                )
            };
            if refused == 0 {
                return Ok(());
            }
            // SAFETY: reads a thread-local error code.
            let err = unsafe { sys::rd_kafka_last_error() };
            if err != RDKafkaRespErr::RD_KAFKA_RESP_ERR__QUEUE_FULL {
                return check(err, "produce");
            }
            self.serve(Duration::from_millis(1))?;
        }
    }

    /// Like [`RawProducer::produce`], with headers: each a name and a value.
    pub fn produce_with(
        &self,
        partition: i32,
        key: &[u8],
        payload: &[u8],
        headers: &[(&CStr, &[u8])],
    ) -> Outcome<()> {
        // SAFETY: names and values are copied; on success librdkafka owns the headers, else they are freed here.
        unsafe {
            let list =
                if headers.is_empty() { ptr::null_mut() } else { sys::rd_kafka_headers_new(headers.len()) };
            for (name, value) in headers {
                let length = name.to_bytes().len() as isize;
                sys::rd_kafka_header_add(
                    list,
                    name.as_ptr(),
                    length,
                    value.as_ptr().cast(),
                    value.len() as isize,
                );
            }
            let fields = [
                field(sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_RKT, |u| u.rkt = self.topic),
                field(sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_PARTITION, |u| u.i32_ = partition),
                field(sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_MSGFLAGS, |u| u.i = sys::RD_KAFKA_MSG_F_COPY),
                field(sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_KEY, |u| u.mem = memory(key)),
                field(sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_VALUE, |u| u.mem = memory(payload)),
                field(sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_HEADERS, |u| u.headers = list),
            ];
            loop {
                let error = sys::rd_kafka_produceva(self.native(), fields.as_ptr(), fields.len());
                if error.is_null() {
                    return Ok(());
                }
                if sys::rd_kafka_error_code(error) != RDKafkaRespErr::RD_KAFKA_RESP_ERR__QUEUE_FULL {
                    if !list.is_null() {
                        sys::rd_kafka_headers_destroy(list);
                    }
                    return check_error(error, "produce");
                }
                sys::rd_kafka_error_destroy(error);
                self.serve(Duration::from_millis(1))?;
            }
        }
    }

    /// Produces the records, each to the partition it names; waits when the queue is full.
    pub fn produce_batch(&self, records: &mut [Message]) -> Outcome<()> {
        let mut rest = records;
        while !rest.is_empty() {
            let flags = sys::RD_KAFKA_MSG_F_COPY | sys::RD_KAFKA_MSG_F_PARTITION;
            // SAFETY: the records point to readable bytes, which are copied (`F_COPY`).
            let done = unsafe {
                sys::rd_kafka_produce_batch(self.topic, 0, flags, rest.as_mut_ptr(), rest.len() as c_int)
            };
            if done as usize == rest.len() {
                return Ok(());
            }
            // A full queue refuses everything after the first refusal, so the refused ones are the tail.
            let tail =
                rest.iter().position(|r| r.err != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap_or(0);
            let err = rest[tail].err;
            if err != RDKafkaRespErr::RD_KAFKA_RESP_ERR__QUEUE_FULL {
                return check(err, "produce batch");
            }
            self.serve(Duration::from_millis(1))?;
            rest = &mut rest[tail..];
            rest.iter_mut().for_each(|r| r.err = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR);
        }
        Ok(())
    }

    /// Waits up to `wait` for an event and serves all that are there; a failed delivery fails the whole run.
    pub fn serve(&self, wait: Duration) -> Outcome<()> {
        let mut wait_ms = wait.as_millis() as c_int;
        if self.reports == Reports::Callback {
            // SAFETY: the client is alive.
            unsafe { sys::rd_kafka_poll(self.native(), wait_ms) };
            return Ok(());
        }
        loop {
            // SAFETY: the queue is alive; the event is destroyed once, after its message was looked at.
            unsafe {
                let event = sys::rd_kafka_queue_poll(self.events, wait_ms);
                if event.is_null() {
                    return Ok(());
                }
                let mut outcome = Ok(());
                if sys::rd_kafka_event_type(event) == sys::RD_KAFKA_EVENT_DR {
                    let message = sys::rd_kafka_event_message_next(event);
                    if !message.is_null() {
                        outcome = check((*message).err, "delivery");
                    }
                }
                sys::rd_kafka_event_destroy(event);
                outcome?;
            }
            wait_ms = 0;
        }
    }

    /// Waits until everything is delivered.
    pub fn flush(&self) -> Outcome<()> {
        // With an event for every message nobody else frees them, so `rd_kafka_flush` may not wait itself.
        let (flush_ms, serve) = match self.reports {
            Reports::Callback => (60_000, Duration::ZERO),
            Reports::Events => (0, Duration::from_millis(10)),
            Reports::ErrorEvents => (100, Duration::ZERO),
        };
        loop {
            // SAFETY: the client is alive.
            let err = unsafe { sys::rd_kafka_flush(self.native(), flush_ms) };
            if err != RDKafkaRespErr::RD_KAFKA_RESP_ERR__TIMED_OUT {
                return check(err, "flush");
            }
            self.serve(serve)?;
        }
    }

    pub fn init_transactions(&self) -> Outcome<()> {
        // SAFETY: the client is alive (also below).
        check_error(unsafe { sys::rd_kafka_init_transactions(self.native(), 30_000) }, "init transactions")
    }

    pub fn begin(&self) -> Outcome<()> {
        check_error(unsafe { sys::rd_kafka_begin_transaction(self.native()) }, "begin")
    }

    pub fn send_offsets(&self, offsets: &PartitionList, consumer: &BatchConsumer) -> Outcome<()> {
        // SAFETY: all handles are alive; the metadata is destroyed once.
        unsafe {
            let group = sys::rd_kafka_consumer_group_metadata(consumer.native());
            let error = sys::rd_kafka_send_offsets_to_transaction(self.native(), offsets.0, group, -1);
            sys::rd_kafka_consumer_group_metadata_destroy(group);
            check_error(error, "send offsets")
        }
    }

    pub fn commit(&self) -> Outcome<()> {
        check_error(unsafe { sys::rd_kafka_commit_transaction(self.native(), -1) }, "commit")
    }

    /// Aborts the open transaction. With reports as events, `rd_kafka_abort_transaction` waits without end for
    /// somebody to serve those of the records it purges, so a second thread does while the first one waits.
    pub fn abort(&self) -> Outcome<()> {
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Acquire) {
                    // A purged record reports that it was purged, which is what was asked for.
                    let _ = self.serve(Duration::from_millis(1));
                }
            });
            // SAFETY: the client is alive.
            let error = unsafe { sys::rd_kafka_abort_transaction(self.native(), -1) };
            ended.store(true, Ordering::Release);
            check_error(error, "abort")
        })
    }
}

impl Drop for RawProducer {
    fn drop(&mut self) {
        // SAFETY: both handles belong to the client, which is dropped after them.
        unsafe {
            sys::rd_kafka_topic_destroy(self.topic);
            sys::rd_kafka_queue_destroy(self.events);
        }
    }
}

fn field(vtype: sys::rd_kafka_vtype_t, set: impl Fn(&mut FieldValue)) -> sys::rd_kafka_vu_t {
    let mut value = FieldValue { _pad: [0; 64] };
    set(&mut value);
    sys::rd_kafka_vu_t { vtype, u: value }
}

fn memory(bytes: &[u8]) -> sys::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 {
    sys::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 { ptr: bytes.as_ptr() as *mut c_void, size: bytes.len() }
}
