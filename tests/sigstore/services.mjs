// services.mjs FOLDER: a certificate authority and its certificate log (Sigstore's own mocks) on
// loopback, beside a real Rekor v2 and a real timestamp authority that run already.
//
// Writes to FOLDER, once everything answers:
//   trusted_root.json    the authorities of all four
//   signing_config.json  where they stand
//   token.jwt            an identity for the certificate authority, which checks no signature
// and serves until it is ended. SKEW_S moves the certificate authority's clock, for certificates
// that had expired before anyone signed.
import { createHash, createPublicKey } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";

const [folder] = process.argv.slice(2);
// The packages lie where run.sh installed them, not beside this file.
const require = createRequire(`${process.env.MODULES}/package.json`);
const { fulcioHandler, initializeCA, initializeCTLog } = require("@sigstore/mock");
const { generateKeyPair } = require("@sigstore/mock/dist/util/key.js");

const { REKOR_URL, REKOR_HOST, REKOR_KEY, TSA_URL } = process.env;
const skewMs = Number(process.env.SKEW_S ?? 0) * 1000;
const clock = skewMs ? new Date(Date.now() + skewMs) : undefined;
const year = 365 * 86400 * 1000;
const since = new Date(Date.now() - year).toISOString();

const base64 = (bytes) => Buffer.from(bytes).toString("base64");
const sha256 = (...parts) => {
  const hash = createHash("sha256");
  parts.forEach((part) => hash.update(part));
  return hash.digest();
};

// The log's identity: C2SP signed notes hash the origin and the key.
const rekorSpki = createPublicKey(readFileSync(REKOR_KEY)).export({ type: "spki", format: "der" });
const rekorId = sha256(REKOR_HOST, "\n", Buffer.from([1]), rekorSpki.subarray(-32));

const ctLog = await initializeCTLog(generateKeyPair(), clock);
const authority = await initializeCA(generateKeyPair("P-384"), ctLog, clock);
const handler = fulcioHandler(authority, {});

async function chainOfTimestamps() {
  const answer = await fetch(`${TSA_URL}/api/v1/timestamp/certchain`);
  const pems = (await answer.text()).match(/-----BEGIN[^]*?-----END CERTIFICATE-----/g);
  return pems.map((pem) => ({ rawBytes: pem.replace(/-----[^-]+-----|\s/g, "") }));
}

function log(url, rawBytes, keyId, keyDetails) {
  return {
    baseUrl: url,
    hashAlgorithm: "SHA2_256",
    publicKey: { rawBytes: base64(rawBytes), keyDetails, validFor: { start: since } },
    logId: { keyId: base64(keyId) },
  };
}

const server = createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", async () => {
    if (request.method !== "POST" || request.url !== handler.path) {
      response.writeHead(404).end();
      return;
    }
    // sigstore-go names its identity in a header; the mock looks for it in the body.
    const asked = JSON.parse(Buffer.concat(chunks));
    const bearer = request.headers.authorization?.replace(/^Bearer /, "");
    asked.credentials ??= { oidcIdentityToken: bearer };
    const { statusCode, response: body, contentType } = await handler.fn(JSON.stringify(asked));
    // Where the mock says 201, Fulcio says 200, and sigstore-go insists on it.
    const status = statusCode === 201 ? 200 : statusCode;
    response.writeHead(status, { "content-type": contentType ?? "text/plain" }).end(body);
  });
});

server.listen(0, "127.0.0.1", async () => {
  const fulcioUrl = `http://127.0.0.1:${server.address().port}`;
  const subject = { organization: "sigstore.mock", commonName: "sigstore" };
  const root = {
    mediaType: "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
    // Others take the origin from here.
    tlogs: [log(`https://${REKOR_HOST}`, rekorSpki, rekorId, "PKIX_ED25519")],
    certificateAuthorities: [{
      subject,
      uri: fulcioUrl,
      certChain: { certificates: [{ rawBytes: base64(authority.rootCertificate) }] },
      validFor: { start: since },
    }],
    ctlogs: [log(fulcioUrl, ctLog.publicKey, ctLog.logID, "PKIX_ECDSA_P256_SHA_256")],
    timestampAuthorities: [{
      subject: { organization: "local", commonName: "Test TSA" },
      certChain: { certificates: await chainOfTimestamps() },
      validFor: { start: since },
    }],
  };
  const service = (url, majorApiVersion) => [
    { url, majorApiVersion, validFor: { start: since }, operator: "test" },
  ];
  const config = {
    mediaType: "application/vnd.dev.sigstore.signingconfig.v0.2+json",
    caUrls: service(fulcioUrl, 1),
    oidcUrls: service("http://127.0.0.1:1", 1),
    rekorTlogUrls: service(REKOR_URL, 2),
    tsaUrls: service(`${TSA_URL}/api/v1/timestamp`, 1),
    rekorTlogConfig: { selector: "ANY" },
    tsaConfig: { selector: "ANY" },
  };
  const claims = {
    iss: "https://issuer.example.org",
    aud: "sigstore",
    sub: "https://ci.example.org/cloister/release.yml@refs/tags/v1",
    iat: Math.floor(Date.now() / 1000),
    exp: Math.floor(Date.now() / 1000) + 3600,
  };
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const token = `${part({ alg: "none", typ: "JWT" })}.${part(claims)}.${part("x")}`;
  writeFileSync(`${folder}/trusted_root.json`, JSON.stringify(root, null, 1));
  writeFileSync(`${folder}/signing_config.json`, JSON.stringify(config, null, 1));
  writeFileSync(`${folder}/token.jwt`, token);
  writeFileSync(`${folder}/ready`, "");
});
