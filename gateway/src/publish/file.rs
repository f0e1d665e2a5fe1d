//! A bundle in a file, replaced whole.

use std::{io, sync::Arc};

use async_trait::async_trait;
use federation_specs::bundle::Bundle;
use service_kit::atomic_file;
use tokio::{io::AsyncReadExt as _, sync::Mutex};

use super::{BundlePublisher, MAX_DOCUMENT_BYTES, PublisherError, Seen, error::reason, format};
use crate::settings::FilePlace;

/// A file of this machine.
pub(super) struct File {
    place: FilePlace,
    /// Held by a write until it is done, also one whose attempt was given up: the next one waits for it.
    writing: Arc<Mutex<()>>,
}

impl File {
    pub(super) fn new(place: FilePlace) -> Self {
        Self { place, writing: Arc::default() }
    }
}

fn failed(action: &'static str, error: &io::Error) -> PublisherError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => PublisherError::Denied { action, reason: reason(&error.to_string()) },
        io::ErrorKind::NotFound => PublisherError::Missing("the folder of the file; create it".to_owned()),
        _ => PublisherError::Refused(format!("{action} failed: {}", reason(&error.to_string()))),
    }
}

#[async_trait]
impl BundlePublisher for File {
    fn render(&self, bundle: &Bundle) -> Result<Vec<u8>, PublisherError> {
        format::render(bundle, self.place.content)
    }

    async fn read(&self) -> Result<Seen, PublisherError> {
        let _done = self.writing.lock().await;
        let file = match tokio::fs::File::open(&self.place.path).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Seen::default()),
            Err(error) => return Err(failed("reading", &error)),
        };
        let mut bytes = Vec::new();
        let read = file.take(MAX_DOCUMENT_BYTES as u64 + 1).read_to_end(&mut bytes).await;
        read.map_err(|error| failed("reading", &error))?;
        if bytes.len() > MAX_DOCUMENT_BYTES {
            bytes.clear();
        }
        Ok(Seen { document: Some(bytes), version: None })
    }

    async fn write(&self, document: &[u8], _seen: &Seen) -> Result<(), PublisherError> {
        let held = Arc::clone(&self.writing).lock_owned().await;
        let (path, mode, document) = (self.place.path.clone(), self.place.mode, document.to_vec());
        let written = tokio::task::spawn_blocking(move || {
            let _held = held;
            atomic_file::write(&path, &document, mode)
        });
        match written.await {
            Ok(written) => written.map_err(|error| failed("writing", &error)),
            Err(error) => Err(PublisherError::Refused(reason(&error.to_string()))),
        }
    }
}
