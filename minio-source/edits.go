package main

// SPDX-License-Identifier: AGPL-3.0-or-later

// The edits that Rowdrop makes to MinIO.  README.md says what each is for.  The text of MinIO in here, and this file
// with it, is under MinIO's licence, AGPL-3.0-or-later.

type change struct {
	old string
	new string
}

type editedFile struct {
	name    string
	before  string // SHA-256 of the file in the pinned module
	after   string // SHA-256 of the file with its changes
	changes []change
}

var editedFiles = []editedFile{
	{
		name:   "cmd/auth-handler.go",
		before: "d79e454532b17d89e3dd5e0216c91b1e3d2741c3aff3aa7b291f84497692c27b",
		after:  "73db3b507c452382b45cca67f392666dbc7976b068f80b211f52b9e06d8e50b7",
		changes: []change{
			// CVE-2026-40344, CVE-2026-41145: an access key that was named is not proof of its secret.
			{
				old: `	case authTypeStreamingUnsignedTrailer:
		cred, owner, s3Err = getReqAccessKeyV4(r, region, serviceS3)
		if s3Err == ErrMissingFields {
			// Could be anonymous. cred + owner is zero value.
			s3Err = ErrNone
		}
`,
				new: `	case authTypeStreamingUnsignedTrailer:
		cred, owner, s3Err = getReqAccessKeyV4(r, region, serviceS3)
		switch s3Err {
		case ErrMissingFields:
			// Could be anonymous. cred + owner is zero value.
			s3Err = ErrNone
		case ErrNone:
			// Modified for Rowdrop on 2026-11-27: verify the signature here, because not every caller does.
			// Only the Authorization header can sign such a request; a signature in the query string is refused.
			s3Err = doesSignatureMatch(unsignedPayloadTrailer, r, region, serviceS3)
		}
`,
			},
			// All other signed requests are checked for their date.  Without it, a signed request that was seen once
			// can be sent again at any later time, with any body.
			{
				old: `		aType := getRequestAuthType(r)
		switch aType {
		case authTypeSigned, authTypeSignedV2, authTypeStreamingSigned, authTypeStreamingSignedTrailer:
`,
				new: `		aType := getRequestAuthType(r)
		if aType == authTypeStreamingUnsignedTrailer && isRequestSignatureV4(r) {
			// Modified for Rowdrop on 2026-11-27: check the date of these signed requests like that of all others.
			aType = authTypeSigned
		}
		switch aType {
		case authTypeSigned, authTypeSignedV2, authTypeStreamingSigned, authTypeStreamingSignedTrailer:
`,
			},
		},
	},
	{
		name:   "cmd/handler-utils.go",
		before: "d66cc08043b721146ea3afcabced1b0c878f49a2a081225c4733e5e1b055b1ad",
		after:  "4cfd10e0d8f38f44c5fccdabfb9f27b8181ebac645881c60321cac88bbc2fcbf",
		changes: []change{
			// CVE-2026-34204: a client must not be able to mark an object as encrypted.  This list is used for headers,
			// query strings, form fields and the records of tar files.
			{
				old: `	xhttp.AmzBucketReplicationStatus,
	"X-Minio-Replication-Server-Side-Encryption-Sealed-Key",
	"X-Minio-Replication-Server-Side-Encryption-Seal-Algorithm",
	"X-Minio-Replication-Server-Side-Encryption-Iv",
	"X-Minio-Replication-Encrypted-Multipart",
	"X-Minio-Replication-Actual-Object-Size",
	ReplicationSsecChecksumHeader,
	// Add more supported headers here.
`,
				new: `	xhttp.AmzBucketReplicationStatus,
	// Modified for Rowdrop on 2026-11-27: headers of the replication of encrypted objects are ignored.
	// Add more supported headers here.
`,
			},
		},
	},
	{
		name:   "cmd/object-api-options.go",
		before: "f9156e34c7457df415f031e357fa787aca945e0f414723e745c6ba05c828da6c",
		after:  "708dc3eff64a0ad80bee09857c9809066b3bdceb3ada1cf14d870b8b4fbeb0f6",
		changes: []change{
			// CVE-2026-34204, the same headers when a multipart upload is completed.
			{
				old: `		opts.ReplicationRequest = true
		opts.UserDefined[ReservedMetadataPrefix+"Actual-Object-Size"] = r.Header.Get(xhttp.MinIOReplicationActualObjectSize)
	}
	if r.Header.Get(ReplicationSsecChecksumHeader) != "" {
		opts.UserDefined[ReplicationSsecChecksumHeader] = r.Header.Get(ReplicationSsecChecksumHeader)
	}
	return opts, nil
`,
				new: `		opts.ReplicationRequest = true
	}
	// Modified for Rowdrop on 2026-11-27: the size and the checksum are never those that the client names.
	return opts, nil
`,
			},
		},
	},
}
