//! The PVs of the analyzer: what would be fields of an mca record, and the records of its database.

use epics_base_rs::server::pv::PvMetadata;
use epics_base_rs::server::snapshot::{DisplayInfo, EnumInfo};
use epics_base_rs::types::{EpicsValue, SharedArray};

use super::spectrum::CHANNELS;
use crate::channel::Records;

pub const NAME: &str = "mca1";
pub const REGIONS: usize = 32;
pub const MODES: [&str; 3] = ["PHA", "MCS", "List"];

/// One of them, by what stands behind the analyzer's name.
pub struct Pv {
    pub suffix: String,
    initial: EpicsValue,
    units: &'static str,
    what: String,
}

impl Pv {
    fn new(suffix: impl Into<String>, initial: EpicsValue, units: &'static str, what: impl Into<String>) -> Self {
        Self {
            suffix: suffix.into(),
            initial,
            units,
            what: what.into(),
        }
    }

    /// Its line in the list of PVs.
    pub fn listed(&self, prefix: &str) -> String {
        format!(
            "{:<40} {:<10} {}",
            format!("{prefix}{NAME}{}", self.suffix),
            "pv",
            self.what
        )
    }

    pub async fn add(self, records: &Records) -> Result<(), String> {
        let name = records.name(&format!("{NAME}{}", self.suffix));
        let modes = matches!(self.initial, EpicsValue::Enum(_));
        let refused = |error| format!("{name}: {error}");
        records.database.add_pv(&name, self.initial).await.map_err(refused)?;
        let metadata = PvMetadata {
            display: Some(DisplayInfo {
                units: self.units.into(),
                precision: 3,
                ..DisplayInfo::default()
            }),
            control: None,
            enums: modes.then(|| EnumInfo::new(MODES.iter().map(|&mode| mode.into()).collect())),
        };
        if let Some(pv) = records.database.find_pv(&name) {
            pv.set_metadata(metadata);
        }
        Ok(())
    }
}

pub fn pvs() -> Vec<Pv> {
    let spectrum = || EpicsValue::LongArray(SharedArray::from(vec![0; CHANNELS]));
    let text = || EpicsValue::String("".into());
    let (number, whole) = (EpicsValue::Double, EpicsValue::Long);
    let mut pvs = vec![
        Pv::new(".VAL", spectrum(), "counts", "Spectrum"),
        Pv::new(".BG", spectrum(), "counts", "Background, none"),
        Pv::new(".MODE", EpicsValue::Enum(0), "", "Mode; it counts in any"),
        Pv::new(".PRTM", number(1.0), "s", "Preset real time"),
        Pv::new(".PLTM", number(0.0), "s", "Preset live time"),
        Pv::new(".ERTM", number(0.0), "s", "Elapsed real time"),
        Pv::new(".ELTM", number(0.0), "s", "Elapsed live time"),
        Pv::new(".STOP", whole(0), "", "Stop counting"),
        Pv::new("Stop", whole(0), "", "Stop counting"),
        Pv::new("Start", whole(0), "", "Count, to a preset"),
        Pv::new("Erase", whole(0), "", "Clear spectrum and times"),
        Pv::new("EraseStart", whole(0), "", "Clear and count; done when counted"),
        Pv::new("Status", whole(0), "", "Whether it counts"),
    ];
    for region in 0..REGIONS {
        for (field, initial, what) in [
            ("", number(0.0), "counts"),
            ("N", number(0.0), "net counts"),
            ("NM", text(), "label"),
            ("LO", whole(-1), "first channel"),
            ("HI", whole(-1), "last channel"),
            ("P", number(0.0), "preset counts, of which nothing comes"),
            ("IP", whole(0), "whether its preset counts; it does not"),
            ("BG", whole(-1), "channels of background, of which nothing comes"),
        ] {
            let what = format!("Region {region}: {what}");
            pvs.push(Pv::new(format!(".R{region}{field}"), initial, "", what));
        }
    }
    for unused in "CheckACQG ClientWait EnableWait Read SetClientWait WhenAcqStops Why1 Why2 Why3 Why4".split(' ') {
        pvs.push(Pv::new(
            unused,
            whole(0),
            "",
            "Of the analyzer's database; nothing comes of it",
        ));
    }
    pvs
}

/// A line for each of them.
pub fn listing(prefix: &str) -> Vec<String> {
    pvs().iter().map(|pv| pv.listed(prefix)).collect()
}
