//! How the simulation reads, writes and follows records of its own IOC.

use std::sync::Arc;

use epics_base_rs::server::database::db_access::{DbChannel, DbSubscription};
use epics_base_rs::server::database::{PvDatabase, parse_pv_name};
use epics_base_rs::types::{EpicsValue, SharedArray};

/// The database, and the prefix of the beamline's names in it.
#[derive(Clone)]
pub struct Records {
    pub database: Arc<PvDatabase>,
    pub prefix: Arc<str>,
}

impl Records {
    pub fn name(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.prefix)
    }

    pub async fn get(&self, suffix: &str) -> f64 {
        DbChannel::new(&self.database, &self.name(suffix)).get_f64().await
    }

    /// Put as a client does: the record processes. A record that refuses keeps what it had.
    pub async fn put(&self, suffix: &str, value: EpicsValue) {
        let name = self.name(suffix);
        let (record, field) = parse_pv_name(&name);
        if let Err(error) = self
            .database
            .put_record_field_from_ca_no_notify(record, field, value)
            .await
        {
            eprintln!("epicsrs-beamline: {name}: {error}");
        }
    }

    pub async fn put_number(&self, suffix: &str, value: f64) {
        self.put(suffix, EpicsValue::Double(value)).await;
    }

    pub async fn put_state(&self, suffix: &str, state: u16) {
        self.put(suffix, EpicsValue::Enum(state)).await;
    }

    pub async fn put_text(&self, suffix: &str, text: &str) {
        self.put(suffix, EpicsValue::String(text.into())).await;
    }

    pub async fn put_waveform(&self, suffix: &str, values: &[f64]) {
        self.put(suffix, EpicsValue::DoubleArray(SharedArray::from(values.to_vec())))
            .await;
    }

    /// The changes of a field from here on.
    pub async fn subscribe(&self, suffix: &str) -> Result<DbSubscription, String> {
        let name = self.name(suffix);
        DbSubscription::subscribe(&self.database, &name)
            .await
            .map_err(|refused| format!("{name}: {refused:?}"))
    }

    /// Call `apply` with a field's value now and after each change.
    pub async fn follow(&self, suffix: &str, mut apply: impl FnMut(f64) + Send + 'static) -> Result<(), String> {
        let mut changes = self.subscribe(suffix).await?;
        apply(self.get(suffix).await);
        tokio::spawn(async move {
            while let Some(value) = changes.recv_f64().await {
                apply(value);
            }
        });
        Ok(())
    }
}
