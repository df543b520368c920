module wit_component

go 1.25

require go.bytecodealliance.org/pkg v0.2.2

// The bindings, and what they need, are made by `rpchost build`.
replace go.bytecodealliance.org/pkg => ./build/go
