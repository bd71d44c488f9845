//! Bragg's law, and where y and z stand for an angle.

/// h c in keV Å.
const ENERGY_WAVELENGTH: f64 = 12.398_419_84;

/// A crystal by the spacing of its planes.
pub struct Crystal {
    spacing: f64,
}

impl Default for Crystal {
    fn default() -> Self {
        Self::new(5.431_02, [1.0, 1.0, 1.0])
    }
}

impl Crystal {
    /// Of a lattice constant in Å and Miller indices.
    pub fn new(lattice: f64, miller: [f64; 3]) -> Self {
        Self {
            spacing: lattice / miller.iter().map(|index| index * index).sum::<f64>().sqrt(),
        }
    }

    pub fn twice_spacing(&self) -> f64 {
        2.0 * self.spacing
    }

    /// In Å, at an angle in degrees.
    pub fn wavelength(&self, angle: f64) -> f64 {
        self.twice_spacing() * angle.to_radians().sin()
    }

    /// In keV, at an angle in degrees.
    pub fn energy(&self, angle: f64) -> f64 {
        ENERGY_WAVELENGTH / self.wavelength(angle)
    }

    pub fn angle_of_wavelength(&self, wavelength: f64) -> Result<f64, String> {
        let sine = wavelength / self.twice_spacing();
        if sine > 0.0 && sine < 1.0 {
            Ok(sine.asin().to_degrees())
        } else {
            Err(format!("no angle reflects {wavelength:.4} A"))
        }
    }

    pub fn angle_of_energy(&self, energy: f64) -> Result<f64, String> {
        if energy > 0.0 {
            self.angle_of_wavelength(ENERGY_WAVELENGTH / energy)
        } else {
            Err(format!("no angle reflects {energy:.4} keV"))
        }
    }
}

/// Which of y and z follow theta.
#[derive(Clone, Copy)]
pub enum Freedom {
    Both,
    Neither,
    OnlyY,
    OnlyZ,
}

impl Freedom {
    /// Normal, channel cut, freeze Z, freeze Y: the states of KohzuMode2MO.
    pub fn from_state(state: f64) -> Self {
        match state as i64 {
            1 => Self::Neither,
            2 => Self::OnlyY,
            3 => Self::OnlyZ,
            _ => Self::Both,
        }
    }
}

/// Places of theta in degrees, y and z in mm; one that is frozen has none.
#[derive(Clone, Copy)]
pub struct Motion {
    pub places: [Option<f64>; 3],
}

impl Motion {
    /// The second crystal meets the beam that the first throws up by `offset`.
    pub fn at(angle: f64, offset: f64, freedom: Freedom) -> Self {
        let radians = angle.to_radians();
        let y = -offset / (2.0 * radians.cos());
        let z = offset / (2.0 * radians.sin());
        let (y, z) = match freedom {
            Freedom::Both => (Some(y), Some(z)),
            Freedom::Neither => (None, None),
            Freedom::OnlyY => (Some(y), None),
            Freedom::OnlyZ => (None, Some(z)),
        };
        Self {
            places: [Some(angle), y, z],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silicon_111_at_10_kev_stands_at_11_4_degrees() {
        let crystal = Crystal::default();

        let angle = crystal.angle_of_energy(10.0).unwrap();

        assert!((angle - 11.402_73).abs() < 1e-4, "{angle}");
        assert!((crystal.energy(angle) - 10.0).abs() < 1e-12);
    }

    #[test]
    fn what_no_angle_reflects_is_refused() {
        let crystal = Crystal::default();

        assert!(crystal.angle_of_energy(0.0).is_err());
        assert!(crystal.angle_of_energy(1.9).is_err());
        assert!(crystal.angle_of_wavelength(-1.0).is_err());
    }

    #[test]
    fn a_frozen_stage_stays() {
        let places = Motion::at(11.4027, 35.0, Freedom::OnlyY).places;

        assert!(places[2].is_none() && (places[1].unwrap() + 17.852).abs() < 1e-3);
    }
}
