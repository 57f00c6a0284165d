// verify.mjs BUNDLE TRUSTED-ROOT IDENTITY ISSUER: has sigstore-js verify a bundle.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [bundle, root, identity, issuer] = process.argv.slice(2);
const require = createRequire(`${process.env.MODULES}/package.json`);
const { bundleFromJSON } = require("@sigstore/bundle");
const { TrustedRoot } = require("@sigstore/protobuf-specs");
const { Verifier, toSignedEntity, toTrustMaterial } = require("@sigstore/verify");

const read = (path) => JSON.parse(readFileSync(path, "utf8"));
const material = toTrustMaterial(TrustedRoot.fromJSON(read(root)));
const verifier = new Verifier(material, { tlogThreshold: 1, ctlogThreshold: 1, timestampThreshold: 1 });
const signer = verifier.verify(toSignedEntity(bundleFromJSON(read(bundle))), {
  subjectAlternativeName: identity,
  extensions: { issuer },
});
console.log(signer.identity.subjectAlternativeName);
