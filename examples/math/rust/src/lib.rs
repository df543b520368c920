//! Functions with types, as a plugin: nothing of rpchost's is in here. The host makes `math.fib`
//! and `math.statistics` of them, whatever its callers speak.

use exports::example::math::api::{Fault, Guest, Reading, Summary};

wit_bindgen::generate!({ path: "wit", world: "plugin" });

/// The last one below 2^53.
const LAST: u32 = 78;

struct Math;

impl Guest for Math {
    fn fib(n: u32) -> Result<u64, Fault> {
        if n > LAST {
            return Err(Fault::TooLarge);
        }
        let (mut a, mut b) = (0, 1);
        for _ in 0..n {
            (a, b) = (b, a + b);
        }
        Ok(a)
    }

    fn statistics(readings: Vec<Reading>) -> Result<Summary, Fault> {
        let first = readings.first().ok_or(Fault::NoReadings)?;
        if let Some(odd) = readings.iter().find(|reading| !reading.value.is_finite()) {
            return Err(Fault::NotANumber(odd.sensor.clone()));
        }
        // `sum` would begin with -0.0, and of one such reading give another mean than elsewhere.
        let sum = readings.iter().fold(0.0, |sum, reading| sum + reading.value);
        // `min_by` takes the first of equals, `max_by` the last.
        let (mut lowest, mut highest) = (first, first);
        for reading in &readings {
            if reading.value < lowest.value {
                lowest = reading;
            }
            if reading.value > highest.value {
                highest = reading;
            }
        }
        Ok(Summary {
            count: readings.len() as u32,
            mean: sum / readings.len() as f64,
            median: median(readings.iter().map(|reading| reading.value).collect()),
            lowest: lowest.clone(),
            highest: highest.clone(),
        })
    }
}

/// The value in the middle, or half of the sum of the two there. There is one at least.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}

export!(Math);
