//! The picture of the beam: a Gaussian spot on noise, binned and cut as the camera is told.

use ad_core_rs::ndarray::NDDataType;

/// How the next picture shall be.
#[derive(Clone, Copy)]
pub struct Frame {
    /// The sensor, in pixels.
    pub sensor: [usize; 2],
    /// The first pixel, the size and the binning of the region that is read, x then y; before binning.
    pub start: [usize; 2],
    pub size: [usize; 2],
    pub binning: [usize; 2],
    pub data_type: NDDataType,
    /// The middle of the spot off the middle of the sensor, in pixels.
    pub spot: [f64; 2],
    /// The spot's brightest pixel without noise.
    pub peak: f64,
}

impl Frame {
    /// Pixels of the picture, x then y.
    pub fn shape(&self) -> [usize; 2] {
        let [x, y] = self.size;
        [(x / self.binning[0]).max(1), (y / self.binning[1]).max(1)]
    }

    /// The spot along one axis: each pixel of the picture adds up the pixels that are binned into it.
    fn profile(&self, axis: Axis) -> Vec<f32> {
        let at = axis as usize;
        let pick = |pair: [f64; 2]| if at == 0 { pair[0] } else { pair[1] };
        let pick_whole = |pair: [usize; 2]| if at == 0 { pair[0] } else { pair[1] };
        let middle = pick_whole(self.sensor) as f64 / 2.0 + pick(self.spot);
        let width = pick_whole(self.sensor) as f64 / 20.0;
        let (start, binning) = (pick_whole(self.start), pick_whole(self.binning));
        (0..pick_whole(self.shape()))
            .map(|pixel| {
                let first = start + pixel * binning;
                (first..first + binning)
                    .map(|x| (-((x as f64 - middle) / width).powi(2) / 2.0).exp() as f32)
                    .sum()
            })
            .collect()
    }

    /// Write the picture, converted to a pixel's type by `pixel`.
    pub fn draw<T>(&self, pixels: &mut [T], noise: &mut Noise, pixel: impl Fn(f32) -> T) {
        let (across, down) = (self.profile(Axis::X), self.profile(Axis::Y));
        for (row, height) in pixels.chunks_mut(across.len()).zip(&down) {
            let height = height * self.peak as f32;
            for ((value, part), background) in row.iter_mut().zip(&across).zip(noise.row()) {
                *value = pixel(height * part + background);
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Axis {
    X,
    Y,
}

/// A strip of noise that is read from another place for each row.
pub struct Noise {
    strip: Vec<f32>,
    state: u64,
}

/// Longer than any row, by as many places as a row may start at.
const STRIP: usize = 8192;
const STARTS: u64 = 4096;

impl Noise {
    pub fn new() -> Self {
        let mut noise = Self {
            strip: Vec::new(),
            state: 0x9E37_79B9_7F4A_7C15,
        };
        noise.strip = (0..STRIP).map(|_| (noise.next() & 15) as f32).collect();
        noise
    }

    /// xorshift64
    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn row(&mut self) -> impl Iterator<Item = &f32> {
        let start = (self.next() % STARTS) as usize;
        self.strip.iter().skip(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        Frame {
            sensor: [64, 32],
            start: [0, 0],
            size: [64, 32],
            binning: [1, 1],
            data_type: NDDataType::Float32,
            spot: [10.0, -4.0],
            peak: 1000.0,
        }
    }

    fn drawn(frame: &Frame) -> Vec<f32> {
        let [x, y] = frame.shape();
        let mut pixels = vec![0.0; x * y];
        frame.draw(&mut pixels, &mut Noise::new(), |value| value);
        pixels
    }

    fn brightest(pixels: &[f32], width: usize) -> [usize; 2] {
        let at = (0..pixels.len())
            .max_by(|&a, &b| pixels[a].total_cmp(&pixels[b]))
            .unwrap();
        [at % width, at / width]
    }

    #[test]
    fn the_spot_stands_where_the_motors_put_it() {
        assert_eq!(brightest(&drawn(&frame()), 64), [42, 12]);
    }

    #[test]
    fn a_region_and_bins_move_it_in_the_picture() {
        let cut = Frame {
            start: [32, 4],
            size: [32, 16],
            binning: [2, 4],
            ..frame()
        };

        assert_eq!(cut.shape(), [16, 4]);
        assert_eq!(brightest(&drawn(&cut), 16), [5, 2]);
    }
}
