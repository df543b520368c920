// Package export_example_math_api has functions with types, as a plugin: nothing of rpchost's is
// in here.
package export_example_math_api

import (
	"cmp"
	"math"
	"slices"

	witTypes "go.bytecodealliance.org/pkg/wit/types"
	api "wit_component/example_math_api"
)

// The last one below 2^53.
const last = 78

func Fib(n uint32) witTypes.Result[uint64, api.Fault] {
	if n > last {
		return witTypes.Err[uint64](api.MakeFaultTooLarge())
	}
	var a, b uint64 = 0, 1
	for range n {
		a, b = b, a+b
	}
	return witTypes.Ok[uint64, api.Fault](a)
}

func Statistics(readings []api.Reading) witTypes.Result[api.Summary, api.Fault] {
	if len(readings) == 0 {
		return witTypes.Err[api.Summary](api.MakeFaultNoReadings())
	}
	sum, values := 0.0, make([]float64, 0, len(readings))
	for _, reading := range readings {
		if math.IsNaN(reading.Value) || math.IsInf(reading.Value, 0) {
			return witTypes.Err[api.Summary](api.MakeFaultNotANumber(reading.Sensor))
		}
		sum += reading.Value
		values = append(values, reading.Value)
	}
	byValue := func(a, b api.Reading) int { return cmp.Compare(a.Value, b.Value) }
	return witTypes.Ok[api.Summary, api.Fault](api.Summary{
		Count:  uint32(len(readings)),
		Mean:   sum / float64(len(readings)),
		Median: median(values),
		// Both take the first of equals.
		Lowest:  slices.MinFunc(readings, byValue),
		Highest: slices.MaxFunc(readings, byValue),
	})
}

// The value in the middle, or half of the sum of the two there. There is one at least. Sorts them.
func median(values []float64) float64 {
	slices.Sort(values)
	middle := len(values) / 2
	if len(values)%2 == 1 {
		return values[middle]
	}
	return (values[middle-1] + values[middle]) / 2
}
