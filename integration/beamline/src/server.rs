//! The two servers, from READY until something ends them.

use std::time::Instant;

use epics_base_rs::error::{CaError, CaResult};
use epics_base_rs::server::ioc_app::IocRunConfig;
use epics_bridge_rs::qsrv::QsrvMount;
use epics_ca_rs::server::RsrvServing;
use epics_pva_rs::server::PvaServer;
use epics_pva_rs::server_native::composite::CompositeSource;

use crate::axes::Axes;
use crate::channel::Records;
use crate::listing::listing;
use crate::options::Options;
use crate::output::Output;
use crate::ports::Ports;
use crate::scaler::Scaler;
use crate::stop::Stop;
use crate::{counters, dcm, mca, mcs, shutter};

/// What the scaler's channels from 2 on count.
const SCALER_RATES: [&str; 4] = [
    "scaler1:rate:I0",
    "scaler1:rate:It",
    "scaler1:rate:If",
    "scaler1:rate:dark",
];

pub struct Server {
    pub options: Options,
    pub ports: Ports,
    pub output: Output,
    pub axes: Axes,
    pub scaler: Scaler,
    pub stop: Stop,
    pub started: Instant,
}

impl Server {
    pub async fn run(mut self, mut config: IocRunConfig, groups: Option<QsrvMount>) -> CaResult<()> {
        if self.options.list {
            let text = listing(&config.db, &self.options.prefix).await;
            return self.output.print(&text).map_err(|error| failed(error.to_string()));
        }
        let database = config.db.clone();
        let records = Records {
            database: database.clone(),
            prefix: self.options.prefix.as_str().into(),
        };
        self.simulate(&records).await.map_err(failed)?;

        let sources = CompositeSource::new();
        if let Some(groups) = groups {
            groups.install_channel_sources(&database, &sources).map_err(failed)?;
        }
        let ports = self.ports;
        let policy = config.acf.clone();
        let (port, tcp_port) = (config.port, config.tcp_port);
        let ca = RsrvServing::start(
            database.clone(),
            port,
            tcp_port,
            policy.clone(),
            None,
            None,
            &mut config.servers,
        )
        .await?;
        let pva = PvaServer::from_parts(database, None, policy, config.autosave_config, config.autosave_manager)
            .bound_at_registrar(&mut config.servers);
        let mut pva = tokio::spawn(async move { pva.run_with_source(sources).await });
        let ready = format!(
            "{{\"ready\": true, \"ca_port\": {}, \"pva_port\": {}, \"pva_broadcast_port\": {}, \"prefix\": \"{}\", \
             \"pid\": {}, \"seconds\": {:.3}}}\n",
            ports.ca,
            ports.pva,
            ports.pva_broadcast,
            self.options.prefix,
            std::process::id(),
            self.started.elapsed().as_secs_f64(),
        );
        self.output.print(&ready).map_err(|error| failed(error.to_string()))?;
        let ended = tokio::select! {
            // The pvAccess server ends by the same signals.
            biased;
            reason = self.stop.told() => Ok(reason),
            served = &mut pva => Err(failed(format!("the pvAccess server ended: {served:?}"))),
        };
        pva.abort();
        ca.shutdown();
        eprintln!("epicsrs-beamline: stops: {}", ended?);
        // Here, since the crate ends the process by the signal that it has seen.
        epics_base_rs::runtime::exit::call_at_exits();
        std::process::exit(0);
    }

    async fn simulate(&self, records: &Records) -> Result<(), String> {
        self.axes.obey_fault(records, "m7").await?;
        self.scaler.take_rates(records, &SCALER_RATES).await?;
        shutter::serve(records).await?;
        counters::serve(records).await?;
        dcm::serve(records).await?;
        mcs::serve(records).await?;
        mca::serve(records).await
    }
}

fn failed(sentence: String) -> CaError {
    CaError::InvalidValue(sentence)
}
