//! The databases, carried in the executable and unpacked for as long as the startup script needs them.

use std::io;
use std::path::{Path, PathBuf};

macro_rules! files {
    ($($name:literal)*) => { &[$(($name, include_str!(concat!("../db/", $name)))),*] };
}

const FILES: &[(&str, &str)] = files![
    "ADBase.template" "ADPrefixes.template" "NDArrayBase.template"
    "NDCircularBuff.template" "NDCodec.template" "NDColorConvert.template"
    "NDFile.template" "NDFileHDF5.template" "NDFileJPEG.template" "NDFileMagick.template" "NDFileNetCDF.template"
    "NDFileNexus.template" "NDFileTIFF.template" "NDOverlay.template" "NDOverlayN.template" "NDPluginBase.template"
    "NDProcess.template" "NDPva.template" "NDROI.template" "NDROIStat.template" "NDROIStatN.template"
    "NDStats.template" "NDStdArrays.template" "NDTimeSeries.template" "NDTimeSeriesN.template" "NDTransform.template"
    "beamline.acf" "beam.db" "camera.template" "counters.db" "detector.template" "dcm.db" "fakeMotor.template" "fault.template" "groups.json"
    "kohzuSeq.db" "mcs.db" "mcsRoi.template" "motor.template" "plain.db" "pvi.db" "scaler.template" "sensor.template" "slit.template"
    "simDetector.template" "waveforms.db"
];

/// A folder with the files, removed when this is dropped.
pub struct Templates(PathBuf);

impl Templates {
    pub fn unpack() -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("epicsrs-beamline-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&folder)?;
        let templates = Self(folder);
        for (name, text) in FILES {
            std::fs::write(templates.0.join(name), text)?;
        }
        Ok(templates)
    }

    pub fn folder(&self) -> &Path {
        &self.0
    }
}

impl Drop for Templates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
