//! Every PV with its record type and a line of what it is.

use epics_base_rs::server::database::PvDatabase;
use epics_base_rs::server::database::db_access::DbChannel;

use crate::mca;

/// One line for each record and each PV of the analyzer, sorted by name.
pub async fn listing(database: &PvDatabase, prefix: &str) -> String {
    let names: Vec<String> = database
        .all_record_names()
        .iter()
        .map(|name| name.to_string())
        .collect();
    let mut lines = mca::listing(prefix);
    for name in names {
        let field = |field: &str| format!("{name}.{field}");
        let kind = text(database, &field("RTYP")).await;
        let mut what = text(database, &field("DESC")).await;
        if what.is_empty() {
            for link in ["INP", "OUT"] {
                if let Some(parameter) = asyn_parameter(&text(database, &field(link)).await) {
                    what = parameter;
                }
            }
        }
        lines.push(format!("{name:<40} {kind:<10} {what}").trim_end().to_owned());
    }
    lines.sort();
    lines.push(String::new());
    lines.join("\n")
}

async fn text(database: &PvDatabase, name: &str) -> String {
    DbChannel::new(database, name).get_string().await
}

/// `@asyn(PORT,0,1)NAME` is the parameter NAME of the driver or plugin PORT.
fn asyn_parameter(link: &str) -> Option<String> {
    let (port, parameter) = link.strip_prefix("@asyn(")?.split_once(')')?;
    let port = port.split([',', ' ']).next()?;
    (!parameter.is_empty()).then(|| format!("{parameter} of {port}"))
}

#[cfg(test)]
mod tests {
    use super::asyn_parameter;

    #[test]
    fn a_link_names_its_parameter() {
        assert_eq!(asyn_parameter("@asyn(CAM,0,1)BIN_X").as_deref(), Some("BIN_X of CAM"));
        assert_eq!(asyn_parameter("bl:m1.RBV CP"), None);
    }
}
