//! The shutter: two busy records that open and close it, and a record that says where it is.

use std::time::Duration;

use epics_base_rs::server::database::db_access::DbSubscription;

use crate::channel::Records;

/// How long the blade is on its way.
const TRAVEL: Duration = Duration::from_millis(200);

/// Serve `shutter:open` and `shutter:close`; a put-callback to either is answered when the blade has arrived.
pub async fn serve(records: &Records) -> Result<(), String> {
    for (command, state) in [("shutter:open", 1), ("shutter:close", 0)] {
        let commands = records.subscribe(command).await?;
        tokio::spawn(obey(records.clone(), commands, command, state));
    }
    Ok(())
}

async fn obey(records: Records, mut commands: DbSubscription, command: &'static str, state: u16) {
    while let Some(value) = commands.recv_f64().await {
        if value == 0.0 {
            continue;
        }
        if records.get("shutter:state").await != f64::from(state) {
            tokio::time::sleep(TRAVEL).await;
            records.put_state("shutter:state", state).await;
        }
        records.put_state(command, 0).await;
    }
}
