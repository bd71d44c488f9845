pub mod derivative;
pub mod fitting;
pub mod interp;
pub mod stats;
