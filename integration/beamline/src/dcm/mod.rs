//! The double-crystal monochromator: drives theta, y and z from the Kohzu records' energy, wavelength or angle.

mod geometry;

use std::time::Duration;

use epics_base_rs::server::database::db_access::DbSubscription;
use epics_base_rs::types::EpicsValue;

use crate::channel::Records;
use crate::dcm::geometry::{Crystal, Freedom, Motion};

/// The records that ask for a place, and how each turns into an angle.
const SETPOINTS: [&str; 3] = ["BraggEAO", "BraggLambdaAO", "BraggThetaAO"];
const MOTORS: [&str; 3] = ["dcm:theta", "dcm:y", "dcm:z"];
/// A change of the motors that no event told of is seen after this.
const LOOK: Duration = Duration::from_millis(50);
const MOVING: &str = "KohzuMoving";
const ALERT: &str = "KohzuAlertBO";
const MESSAGES: [&str; 2] = ["KohzuSeqMsg1SI", "KohzuSeqMsg2SI"];

/// Serve the monochromator's records.
pub async fn serve(records: &Records) -> Result<(), String> {
    let mut dcm = Dcm {
        records: records.clone(),
        moving: records.subscribe(MOVING).await?,
        crystal: Crystal::default(),
        asked: [0.0; 3],
    };
    dcm.take_crystal().await;
    let angle = records.get("dcm:theta.RBV").await;
    dcm.show_setpoints(angle).await;
    dcm.say("Ready", "").await;
    let own = records.clone();
    let mut readbacks = records.subscribe("dcm:theta.RBV").await?;
    show_readback(&own, angle).await;
    tokio::spawn(async move {
        while let Some(angle) = readbacks.recv_f64().await {
            show_readback(&own, angle).await;
        }
    });
    tokio::spawn(async move { dcm.run().await });
    Ok(())
}

async fn crystal(records: &Records) -> Crystal {
    let miller = [
        records.get("BraggHAO").await,
        records.get("BraggKAO").await,
        records.get("BraggLAO").await,
    ];
    Crystal::new(records.get("BraggAAO").await, miller)
}

async fn show_readback(records: &Records, angle: f64) {
    let crystal = crystal(records).await;
    records.put_number("BraggThetaRdbkAO", angle).await;
    records.put_number("BraggLambdaRdbkAO", crystal.wavelength(angle)).await;
    records.put_number("BraggERdbkAO", crystal.energy(angle)).await;
    records.put_number("KohzuThetaRdbkAI", angle).await;
    for (readback, motor) in [("KohzuYRdbkAI", "dcm:y.RBV"), ("KohzuZRdbkAI", "dcm:z.RBV")] {
        records.put_number(readback, records.get(motor).await).await;
    }
}

struct Dcm {
    records: Records,
    moving: DbSubscription,
    crystal: Crystal,
    /// The setpoints as the last move left them: the one that differs is the one that asks.
    asked: [f64; 3],
}

impl Dcm {
    async fn run(&mut self) {
        while let Some(moving) = self.moving.recv_f64().await {
            if moving != 0.0 {
                self.take_crystal().await;
                let go = self.records.get("KohzuModeBO").await != 0.0 || self.records.get("KohzuPutBO").await != 0.0;
                if let Err(refusal) = self.serve_request(go).await {
                    self.refuse(&refusal).await;
                }
                self.records.put_state("KohzuPutBO", 0).await;
                // Answers every put-callback that waits.
                self.records.put_state(MOVING, 0).await;
            }
        }
    }

    /// Follow the setpoints until the motors rest where the last of them wants them.
    async fn serve_request(&mut self, go: bool) -> Result<(), String> {
        let mut motion = self.request().await?;
        if !go {
            return Ok(());
        }
        self.say("Moving", "").await;
        self.start(motion).await?;
        let mut done = self.records.subscribe("dcm:theta.DMOV").await?;
        loop {
            if self.changed().await {
                motion = self.request().await?;
                self.start(motion).await?;
            }
            if self.at_rest().await {
                break;
            }
            let _ = tokio::time::timeout(LOOK, done.recv_f64()).await;
        }
        show_readback(&self.records, self.records.get("dcm:theta.RBV").await).await;
        self.say("Ready", "").await;
        self.records.put_state(ALERT, 0).await;
        Ok(())
    }

    async fn setpoints(&self) -> [f64; 3] {
        let mut values = [0.0; 3];
        for (value, name) in values.iter_mut().zip(SETPOINTS) {
            *value = self.records.get(name).await;
        }
        values
    }

    async fn changed(&self) -> bool {
        self.setpoints().await != self.asked
    }

    /// Where the setpoint that changed wants the motors; the other two follow it.
    async fn request(&mut self) -> Result<Motion, String> {
        let setpoints = self.setpoints().await;
        let [energy, wavelength, angle] = setpoints;
        let [asked_energy, asked_wavelength, asked_angle] = self.asked;
        let angle = if energy != asked_energy {
            self.crystal.angle_of_energy(energy)
        } else if wavelength != asked_wavelength {
            self.crystal.angle_of_wavelength(wavelength)
        } else if angle != asked_angle {
            Ok(angle)
        } else {
            self.crystal.angle_of_energy(energy)
        }
        .and_then(|angle| {
            if (1.0..89.0).contains(&angle) {
                Ok(angle)
            } else {
                Err(format!("theta {angle:.3} is out of reach"))
            }
        });
        let angle = match angle {
            Ok(angle) => angle,
            Err(refusal) => {
                self.asked = setpoints;
                return Err(refusal);
            }
        };
        self.show_setpoints(angle).await;
        let offset = self.records.get("Kohzu_yOffsetAO").await;
        let freedom = Freedom::from_state(self.records.get("KohzuMode2MO").await);
        let motion = Motion::at(angle, offset, freedom);
        for (name, place) in ["KohzuThetaSetAO", "KohzuYSetAO", "KohzuZSetAO"]
            .iter()
            .zip(motion.places)
        {
            if let Some(place) = place {
                self.records.put_number(name, place).await;
            }
        }
        Ok(motion)
    }

    /// Without processing, so that they start no move themselves.
    async fn show_setpoints(&mut self, angle: f64) {
        let values = [self.crystal.energy(angle), self.crystal.wavelength(angle), angle];
        let now = self.setpoints().await;
        for ((name, value), now) in SETPOINTS.iter().zip(values).zip(now) {
            // The one that asked keeps the number that was put.
            if (value - now).abs() > 1e-9 * value.abs() {
                let channel = self.records.name(name);
                let posted = self
                    .records
                    .database
                    .put_pv_and_post(&channel, EpicsValue::Double(value))
                    .await;
                if let Err(error) = posted {
                    eprintln!("epicsrs-beamline: {channel}: {error}");
                }
            }
        }
        self.asked = self.setpoints().await;
    }

    async fn start(&self, motion: Motion) -> Result<(), String> {
        for (motor, place) in MOTORS.iter().zip(motion.places) {
            let Some(place) = place else { continue };
            let high = self.records.get(&format!("{motor}.HLM")).await;
            let low = self.records.get(&format!("{motor}.LLM")).await;
            if place > high || place < low {
                return Err(format!("{motor} {place:.3} is beyond a limit"));
            }
        }
        for (motor, place) in MOTORS.iter().zip(motion.places) {
            if let Some(place) = place {
                // The record processes within the put: DMOV is 0 by its end, unless it is there already.
                self.records.put_number(motor, place).await;
            }
        }
        Ok(())
    }

    async fn at_rest(&self) -> bool {
        for motor in MOTORS {
            if self.records.get(&format!("{motor}.DMOV")).await == 0.0 {
                return false;
            }
        }
        true
    }

    async fn take_crystal(&mut self) {
        self.crystal = crystal(&self.records).await;
        self.records
            .put_number("Bragg2dSpacingAO", self.crystal.twice_spacing())
            .await;
    }

    async fn refuse(&self, refusal: &str) {
        self.records.put_state(ALERT, 1).await;
        self.say("Not moved", refusal).await;
    }

    async fn say(&self, first: &str, second: &str) {
        for (record, text) in MESSAGES.iter().zip([first, second]) {
            self.records.put_text(record, text).await;
        }
    }
}
