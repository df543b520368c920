//! Functions with types, as a plugin: nothing of rpchost's is in here.

const std = @import("std");
const c = @import("plugin");

const Readings = c.exports_example_math_api_list_reading_t;
const Reading = c.exports_example_math_api_reading_t;
const Summary = c.exports_example_math_api_summary_t;
const Fault = c.exports_example_math_api_fault_t;

/// The last one below 2^53.
const last = 78;

export fn exports_example_math_api_fib(n: u32, number: *u64, fault: *Fault) bool {
    if (n > last) {
        fault.tag = c.EXPORTS_EXAMPLE_MATH_API_FAULT_TOO_LARGE;
        return false;
    }
    var a: u64 = 0;
    var b: u64 = 1;
    for (0..n) |_| {
        const next = a + b;
        a = b;
        b = next;
    }
    number.* = a;
    return true;
}

export fn exports_example_math_api_statistics(
    list: *Readings,
    summary: *Summary,
    fault: *Fault,
) bool {
    // Arguments are ours to free.
    defer c.exports_example_math_api_list_reading_free(list);
    if (list.len == 0) {
        fault.tag = c.EXPORTS_EXAMPLE_MATH_API_FAULT_NO_READINGS;
        return false;
    }
    const readings = list.ptr[0..list.len];
    var sum: f64 = 0;
    var lowest = readings[0];
    var highest = readings[0];
    for (readings) |reading| {
        if (!std.math.isFinite(reading.value)) {
            fault.tag = c.EXPORTS_EXAMPLE_MATH_API_FAULT_NOT_A_NUMBER;
            fault.val.not_a_number = copy(reading.sensor);
            return false;
        }
        sum += reading.value;
        if (reading.value < lowest.value) lowest = reading;
        if (reading.value > highest.value) highest = reading;
    }
    summary.* = .{
        .count = @intCast(readings.len),
        .mean = sum / @as(f64, @floatFromInt(readings.len)),
        .median = median(readings),
        .lowest = .{ .sensor = copy(lowest.sensor), .value = lowest.value },
        .highest = .{ .sensor = copy(highest.sensor), .value = highest.value },
    };
    return true;
}

/// The value in the middle, or half of the sum of the two there. There is one at least.
fn median(readings: []const Reading) f64 {
    const allocator = std.heap.c_allocator;
    const values = allocator.alloc(f64, readings.len) catch @panic("out of memory");
    defer allocator.free(values);
    for (values, readings) |*value, reading| value.* = reading.value;
    std.mem.sortUnstable(f64, values, {}, std.sort.asc(f64));
    const middle = values.len / 2;
    if (values.len % 2 == 1) return values[middle];
    return (values[middle - 1] + values[middle]) / 2;
}

/// What is put into a result belongs to the host, which frees each name by itself.
fn copy(name: c.plugin_string_t) c.plugin_string_t {
    var same: c.plugin_string_t = undefined;
    c.plugin_string_dup_n(&same, name.ptr, name.len);
    return same;
}
