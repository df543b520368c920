// Checks one object of KEDA's, JSON on standard input, against the schema of its kind.
// Exits 1 if it is wrong, and says what. NODE_PATH leads to the packages of package.json.
'use strict'

const object = JSON.parse(require('node:fs').readFileSync(0, 'utf8'))
const kinds = require('@kubernetes-models/keda/keda.sh/v1alpha1')

try {
  new kinds[object.kind](object).validate()
} catch (error) {
  console.error(error.message)
  process.exit(1)
}
