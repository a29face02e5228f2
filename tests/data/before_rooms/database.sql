BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE api_keys (
	prefix VARCHAR NOT NULL, 
	digest VARCHAR NOT NULL, 
	owner VARCHAR NOT NULL, 
	scopes JSON NOT NULL, 
	name VARCHAR NOT NULL, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME, 
	revoked_at DATETIME, 
	last_used_at DATETIME, 
	CONSTRAINT pk_api_keys PRIMARY KEY (prefix)
);
CREATE TABLE jobs (
	id VARCHAR NOT NULL, 
	owner VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	source_kind VARCHAR NOT NULL, 
	source_location VARCHAR NOT NULL, 
	source_name VARCHAR NOT NULL, 
	source_num_bytes BIGINT, 
	settings JSON NOT NULL, 
	priority INTEGER NOT NULL, 
	created_at DATETIME NOT NULL, 
	version INTEGER NOT NULL, 
	fence INTEGER NOT NULL, 
	runner VARCHAR, 
	lease_until DATETIME, 
	cancel_requested BOOLEAN NOT NULL, 
	delete_requested BOOLEAN NOT NULL, 
	started_at DATETIME, 
	finished_at DATETIME, 
	progress JSON NOT NULL, 
	estimated_gpu_seconds DOUBLE NOT NULL, 
	gpu_seconds DOUBLE NOT NULL, 
	cost DOUBLE NOT NULL, 
	num_tries INTEGER NOT NULL, 
	error JSON, 
	result JSON, 
	result_address VARCHAR, 
	content VARCHAR, 
	webhook_url VARCHAR, 
	metadata JSON NOT NULL, 
	idempotency_key VARCHAR, 
	request_digest VARCHAR, 
	inputs_deleted_at DATETIME, 
	intermediates_deleted_at DATETIME, 
	deleted_at DATETIME, 
	CONSTRAINT pk_jobs PRIMARY KEY (id), 
	CONSTRAINT uq_jobs_owner_idempotency_key UNIQUE (owner, idempotency_key)
);
INSERT INTO "jobs" VALUES('job_a1289a1a7c9ca801dafac5be','anna','restoring','upload','upload_x','video.mp4',NULL,'{"model": "lanczos", "resolution": "x2"}',0,'2026-11-28 21:20:48.657142',4,1,'runner','2026-11-28 21:21:48.673133',0,0,'2026-11-28 21:20:48.673133',NULL,'{"segments_done": 2, "segments_total": 9, "frames_done": 0, "frames_total": 0, "frames_per_second": 0.0, "seconds_left": null, "has_preview": false}',0.0,0.0,0.0,1,NULL,NULL,NULL,NULL,NULL,'{}',NULL,NULL,NULL,NULL,NULL);
CREATE TABLE service_values (
	name VARCHAR NOT NULL, 
	value BLOB NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_service_values PRIMARY KEY (name)
);
CREATE TABLE uploads (
	id VARCHAR NOT NULL, 
	owner VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	num_bytes BIGINT, 
	num_received BIGINT NOT NULL, 
	sha256 VARCHAR, 
	created_at DATETIME NOT NULL, 
	changed_at DATETIME NOT NULL, 
	CONSTRAINT pk_uploads PRIMARY KEY (id)
);
CREATE TABLE usage (
	reference VARCHAR NOT NULL, 
	owner VARCHAR NOT NULL, 
	job_id VARCHAR NOT NULL, 
	model VARCHAR NOT NULL, 
	gpu_seconds DOUBLE NOT NULL, 
	megapixels DOUBLE NOT NULL, 
	output_seconds DOUBLE NOT NULL, 
	cost DOUBLE NOT NULL, 
	at DATETIME NOT NULL, 
	day VARCHAR NOT NULL, 
	CONSTRAINT pk_usage PRIMARY KEY (reference)
);
CREATE TABLE webhooks (
	id VARCHAR NOT NULL, 
	job_id VARCHAR NOT NULL, 
	url VARCHAR NOT NULL, 
	event VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	created_at DATETIME NOT NULL, 
	num_tries INTEGER NOT NULL, 
	next_try_at DATETIME, 
	lease_until DATETIME, 
	delivered_at DATETIME, 
	last_error VARCHAR, 
	CONSTRAINT pk_webhooks PRIMARY KEY (id), 
	CONSTRAINT uq_webhooks_job_id_event UNIQUE (job_id, event)
);
CREATE INDEX ix_api_keys_owner ON api_keys (owner);
CREATE INDEX ix_jobs_content ON jobs (content);
CREATE INDEX ix_jobs_created_at_id ON jobs (created_at, id);
CREATE INDEX ix_jobs_finished_at ON jobs (finished_at);
CREATE INDEX ix_jobs_owner_created_at_id ON jobs (owner, created_at, id);
CREATE INDEX ix_jobs_result_address ON jobs (result_address);
CREATE INDEX ix_jobs_source_location ON jobs (source_location);
CREATE INDEX ix_jobs_state ON jobs (state);
CREATE INDEX ix_uploads_owner ON uploads (owner);
CREATE INDEX ix_uploads_state_changed_at ON uploads (state, changed_at);
CREATE INDEX ix_usage_at ON usage (at);
CREATE INDEX ix_usage_job_id ON usage (job_id);
CREATE INDEX ix_usage_owner_at ON usage (owner, at);
CREATE INDEX ix_webhooks_state_next_try_at ON webhooks (state, next_try_at);
COMMIT;
