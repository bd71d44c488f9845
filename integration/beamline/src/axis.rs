//! One simulated motor axis, in steps: it speeds up, cruises, slows down, and can be told to fail.

use std::time::{Duration, Instant};

use asyn_rs::error::AsynResult;
use asyn_rs::interfaces::motor::{AsynMotor, MotorStatus, PollFailure};
use asyn_rs::user::AsynUser;

/// What an axis does wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// It stands still and says that it moves.
    Stall,
    /// The limit switch of one side closes as soon as it moves that way.
    HighLimit,
    LowLimit,
}

impl Fault {
    /// The states of the record that commands it.
    pub fn from_state(state: f64) -> Self {
        match state as i64 {
            1 => Self::Stall,
            2 => Self::HighLimit,
            3 => Self::LowLimit,
            _ => Self::None,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Demand {
    Rest,
    Reach(f64),
    /// Keep a velocity; 0 stops.
    Cruise(f64),
}

pub struct Axis {
    position: f64,
    velocity: f64,
    demand: Demand,
    speed: f64,
    acceleration: f64,
    /// What the controller adds to its position after a redefinition.
    offset: f64,
    /// Where it goes when it has arrived.
    then: Option<f64>,
    forward: bool,
    homed: bool,
    fault: Fault,
    at_high: bool,
    at_low: bool,
    simulated: Instant,
}

const STEP: Duration = Duration::from_millis(1);
/// Half the width of the home switch, in steps.
const HOME_SWITCH: f64 = 50.0;

impl Axis {
    pub fn at(position: f64) -> Self {
        Self {
            position,
            velocity: 0.0,
            demand: Demand::Rest,
            speed: 1.0,
            acceleration: 1.0,
            offset: 0.0,
            then: None,
            forward: true,
            homed: false,
            fault: Fault::None,
            at_high: false,
            at_low: false,
            simulated: Instant::now(),
        }
    }

    pub fn set_fault(&mut self, fault: Fault) {
        self.fault = fault;
    }

    /// Simulate up to `now`.
    fn advance(&mut self, now: Instant) {
        while self.demand != Demand::Rest && now.saturating_duration_since(self.simulated) >= STEP {
            self.simulated += STEP;
            self.step(STEP.as_secs_f64());
        }
        if self.demand == Demand::Rest {
            self.simulated = now;
        }
        self.at_high = self.fault == Fault::HighLimit && self.at_high;
        self.at_low = self.fault == Fault::LowLimit && self.at_low;
    }

    fn step(&mut self, seconds: f64) {
        if self.fault == Fault::Stall {
            self.velocity = 0.0;
            if self.demand == Demand::Cruise(0.0) {
                self.demand = Demand::Rest;
            }
            return;
        }
        let wanted = match self.demand {
            Demand::Rest => 0.0,
            Demand::Cruise(velocity) => velocity,
            Demand::Reach(target) => {
                let distance = target - self.position;
                // The fastest from which it still stops in time, after a step at that speed. The motor record takes an
                // axis that overshoots for one that runs away.
                let brake = self.acceleration * seconds;
                distance.signum()
                    * self
                        .speed
                        .min((brake * brake + 2.0 * self.acceleration * distance.abs()).sqrt() - brake)
            }
        };
        let change = self.acceleration * seconds;
        self.velocity += (wanted - self.velocity).clamp(-change, change);
        if self.velocity != 0.0 {
            self.forward = self.velocity > 0.0;
        }
        if self.blocked() {
            self.rest_at(self.position);
            return;
        }
        let travelled = self.velocity * seconds;
        match self.demand {
            Demand::Reach(target) => {
                let distance = target - self.position;
                let arrives = travelled * distance > 0.0 && distance.abs() - travelled.abs() < 0.5;
                if (distance == 0.0 || arrives) && self.velocity.abs() <= 3.0 * change {
                    let then = self.then.take();
                    self.rest_at(target);
                    self.demand = then.map_or(Demand::Rest, Demand::Reach);
                    return;
                }
            }
            Demand::Cruise(velocity) if velocity == 0.0 && self.velocity == 0.0 => {
                self.rest_at(self.position.round());
                return;
            }
            _ => {}
        }
        self.position += travelled;
    }

    fn blocked(&mut self) -> bool {
        self.at_high = self.fault == Fault::HighLimit && self.velocity > 0.0;
        self.at_low = self.fault == Fault::LowLimit && self.velocity < 0.0;
        self.at_high || self.at_low
    }

    fn rest_at(&mut self, position: f64) {
        self.position = position;
        self.velocity = 0.0;
        self.demand = Demand::Rest;
        self.then = None;
    }

    fn start(&mut self, demand: Demand, speed: f64, acceleration: f64) {
        self.advance(Instant::now());
        if speed != 0.0 {
            self.speed = speed.abs();
        }
        if acceleration != 0.0 {
            self.acceleration = acceleration.abs();
        }
        self.simulated = Instant::now();
        self.demand = demand;
        self.then = None;
    }
}

impl AsynMotor for Axis {
    fn move_absolute(&mut self, _: &AsynUser, position: f64, _: f64, speed: f64, acceleration: f64) -> AsynResult<()> {
        self.start(Demand::Reach(position - self.offset), speed, acceleration);
        Ok(())
    }

    fn move_relative(&mut self, _: &AsynUser, distance: f64, _: f64, speed: f64, acceleration: f64) -> AsynResult<()> {
        let from = match self.demand {
            Demand::Reach(target) => target,
            _ => self.position,
        };
        self.start(Demand::Reach(from + distance), speed, acceleration);
        Ok(())
    }

    fn move_velocity(&mut self, _: &AsynUser, _: f64, velocity: f64, acceleration: f64) -> AsynResult<()> {
        self.start(Demand::Cruise(velocity), velocity, acceleration);
        Ok(())
    }

    fn home(&mut self, _: &AsynUser, _: f64, speed: f64, acceleration: f64, forward: bool) -> AsynResult<()> {
        // Where the switch is closed already, it is left to find its edge.
        if self.position.abs() < HOME_SWITCH {
            let away = if forward { -HOME_SWITCH } else { HOME_SWITCH };
            self.start(Demand::Reach(away), speed, acceleration);
            self.then = Some(0.0);
        } else {
            self.start(Demand::Reach(0.0), speed, acceleration);
        }
        self.homed = true;
        Ok(())
    }

    fn stop(&mut self, _: &AsynUser, acceleration: f64) -> AsynResult<()> {
        if self.demand != Demand::Rest {
            self.start(Demand::Cruise(0.0), 0.0, acceleration);
        }
        Ok(())
    }

    fn set_position(&mut self, _: &AsynUser, position: f64) -> AsynResult<()> {
        self.advance(Instant::now());
        self.offset = position - self.position;
        Ok(())
    }

    fn poll(&mut self, _: &AsynUser, status: &mut MotorStatus) -> AsynResult<()> {
        self.advance(Instant::now());
        let moving = self.demand != Demand::Rest;
        let shown = (self.position + self.offset).round();
        *status = MotorStatus {
            done: !moving,
            moving,
            msta_moving: moving,
            direction: self.forward,
            high_limit: self.at_high,
            low_limit: self.at_low,
            encoder_home: self.position == 0.0,
            homed: self.homed,
            ..MotorStatus::default()
                .with_position(shown)
                .with_encoder_position(shown)
                .with_velocity(self.velocity)
        };
        Ok(())
    }

    fn poll_failure(&self) -> PollFailure {
        PollFailure::NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(axis: &mut Axis, milliseconds: u64) {
        let end = axis.simulated + Duration::from_millis(milliseconds);
        axis.advance(end);
    }

    fn moving(target: f64) -> Axis {
        let mut axis = Axis::at(0.0);
        axis.move_absolute(&AsynUser::new(0), target, 0.0, 1000.0, 10_000.0)
            .unwrap();
        axis
    }

    #[test]
    fn a_move_takes_its_ramps_and_its_way() {
        let mut axis = moving(500.0);

        run(&mut axis, 590);
        let before = axis.demand;
        run(&mut axis, 30);

        // 400 steps at 1000 a second, and 100 in two ramps of 0.1 s.
        assert!(before == Demand::Reach(500.0));
        assert!(axis.demand == Demand::Rest);
        assert_eq!(axis.position, 500.0);
    }

    #[test]
    fn one_step_and_the_way_back_arrive() {
        let mut axis = moving(1.0);
        run(&mut axis, 50);
        assert!((axis.position, axis.demand) == (1.0, Demand::Rest));

        axis.move_absolute(&AsynUser::new(0), -200.0, 0.0, 1000.0, 10_000.0)
            .unwrap();
        run(&mut axis, 150);
        axis.move_absolute(&AsynUser::new(0), 1.0, 0.0, 1000.0, 10_000.0)
            .unwrap();
        run(&mut axis, 1000);
        assert!((axis.position, axis.demand) == (1.0, Demand::Rest));
    }

    #[test]
    fn homing_leaves_the_home_position_before_it_comes_back() {
        let mut axis = Axis::at(0.0);
        axis.home(&AsynUser::new(0), 0.0, 1000.0, 10_000.0, true).unwrap();
        run(&mut axis, 50);
        assert!(axis.position < 0.0 && axis.demand == Demand::Reach(-HOME_SWITCH));

        run(&mut axis, 1000);
        assert!((axis.position, axis.demand) == (0.0, Demand::Rest));
    }

    #[test]
    fn a_stop_leaves_it_on_a_whole_step() {
        let mut axis = moving(500.0);
        run(&mut axis, 250);

        axis.stop(&AsynUser::new(0), 0.0).unwrap();
        run(&mut axis, 200);

        assert!(axis.demand == Demand::Rest);
        assert!(axis.position > 200.0 && axis.position < 300.0 && axis.position.fract() == 0.0);
    }

    #[test]
    fn a_stalled_axis_says_that_it_moves_until_it_is_stopped() {
        let mut axis = moving(500.0);
        run(&mut axis, 100);
        axis.set_fault(Fault::Stall);
        let stuck = axis.position;

        run(&mut axis, 1000);
        assert!((axis.position, axis.demand) == (stuck, Demand::Reach(500.0)));

        axis.stop(&AsynUser::new(0), 0.0).unwrap();
        run(&mut axis, 10);
        assert!(axis.demand == Demand::Rest);
    }

    #[test]
    fn a_limit_switch_ends_a_move_one_way_only() {
        let mut axis = moving(500.0);
        axis.set_fault(Fault::HighLimit);
        run(&mut axis, 10);
        assert!(axis.at_high && axis.demand == Demand::Rest);

        axis.move_absolute(&AsynUser::new(0), -10.0, 0.0, 1000.0, 10_000.0)
            .unwrap();
        run(&mut axis, 500);
        assert_eq!(axis.position, -10.0);
    }
}
