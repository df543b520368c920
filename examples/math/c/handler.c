/* Functions with types, as a plugin: nothing of rpchost's is in here. */

#include <math.h>
#include <stdlib.h>

#include "plugin.h"

typedef exports_example_math_api_list_reading_t readings_t;
typedef exports_example_math_api_reading_t reading_t;
typedef exports_example_math_api_summary_t summary_t;
typedef exports_example_math_api_fault_t fault_t;

/* The last one below 2^53. */
enum { LAST = 78 };

bool exports_example_math_api_fib(uint32_t n, uint64_t *number, fault_t *fault) {
    if (n > LAST) {
        *fault = (fault_t){.tag = EXPORTS_EXAMPLE_MATH_API_FAULT_TOO_LARGE};
        return false;
    }
    uint64_t a = 0, b = 1;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t next = a + b;
        a = b;
        b = next;
    }
    *number = a;
    return true;
}

static int by_value(const void *one, const void *other) {
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

/* The value in the middle, or half of the sum of the two there. There is one at least. */
static double median(const readings_t *readings) {
    size_t count = readings->len, middle = count / 2;
    double *values = malloc(count * sizeof *values);
    if (!values) {
        abort();
    }
    for (size_t i = 0; i < count; i++) {
        values[i] = readings->ptr[i].value;
    }
    qsort(values, count, sizeof *values, by_value);
    double found = count % 2 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
    free(values);
    return found;
}

/* What is put into a result belongs to the host, which frees each name by itself. */
static void copy(plugin_string_t *to, const plugin_string_t *from) {
    plugin_string_dup_n(to, (const char *)from->ptr, from->len);
}

static bool summarize(const readings_t *readings, summary_t *summary, fault_t *fault) {
    if (readings->len == 0) {
        *fault = (fault_t){.tag = EXPORTS_EXAMPLE_MATH_API_FAULT_NO_READINGS};
        return false;
    }
    double sum = 0;
    const reading_t *lowest = readings->ptr, *highest = readings->ptr;
    const reading_t *end = readings->ptr + readings->len;
    for (const reading_t *reading = readings->ptr; reading < end; reading++) {
        if (!isfinite(reading->value)) {
            *fault = (fault_t){.tag = EXPORTS_EXAMPLE_MATH_API_FAULT_NOT_A_NUMBER};
            copy(&fault->val.not_a_number, &reading->sensor);
            return false;
        }
        sum += reading->value;
        if (reading->value < lowest->value) {
            lowest = reading;
        }
        if (reading->value > highest->value) {
            highest = reading;
        }
    }
    *summary = (summary_t){
        .count = readings->len,
        .mean = sum / readings->len,
        .median = median(readings),
        .lowest.value = lowest->value,
        .highest.value = highest->value,
    };
    copy(&summary->lowest.sensor, &lowest->sensor);
    copy(&summary->highest.sensor, &highest->sensor);
    return true;
}

bool exports_example_math_api_statistics(
    readings_t *readings, summary_t *summary, fault_t *fault) {
    bool summed_up = summarize(readings, summary, fault);
    /* Arguments are ours to free. */
    exports_example_math_api_list_reading_free(readings);
    return summed_up;
}
