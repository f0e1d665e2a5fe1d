//! Batch calls: some items fail while they are read, the others go to the store together, and every answer goes back
//! to its place.

use tonic::Status;

/// Items of one batch, each read or refused, in the order of the request.
pub(super) struct Batch<T> {
    refused: Vec<Option<Status>>,
    accepted: Vec<T>,
}

impl<T> Batch<T> {
    /// Reads every item.
    pub(super) fn read<I>(items: Vec<I>, read: impl FnMut(I) -> Result<T, Status>) -> Self {
        let mut refused = Vec::with_capacity(items.len());
        let mut accepted = Vec::with_capacity(items.len());
        for item in items.into_iter().map(read) {
            match item {
                Ok(item) => {
                    accepted.push(item);
                    refused.push(None);
                }
                Err(status) => refused.push(Some(status)),
            }
        }
        Self { refused, accepted }
    }

    /// The items that were read.
    pub(super) fn accepted(&self) -> &[T] {
        &self.accepted
    }

    /// Puts the answers for the accepted items (or one failure for all of them) between the refusals.
    pub(super) fn merge<U>(self, answers: Result<Vec<Result<U, Status>>, Status>) -> Vec<Result<U, Status>> {
        let (answers, failure) = match answers {
            Ok(answers) => (answers, Status::internal("no answer for this item")),
            Err(failure) => (Vec::new(), failure),
        };
        let mut answers = answers.into_iter();
        self.refused
            .into_iter()
            .map(|refused| match refused {
                Some(status) => Err(status),
                None => answers.next().unwrap_or_else(|| Err(failure.clone())),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(numbers: Vec<i32>) -> Batch<i32> {
        Batch::read(numbers, |number| if number < 0 { Err(Status::invalid_argument("negative")) } else { Ok(number) })
    }

    #[test]
    fn answers_return_to_their_places() {
        let batch = read(vec![1, -1, 2]);
        assert_eq!(batch.accepted(), [1, 2]);
        let merged = batch.merge(Ok(vec![Ok("one"), Err(Status::not_found("two"))]));
        let texts: Vec<_> = merged.iter().map(|item| item.as_ref().map_err(Status::message)).collect();
        assert_eq!(texts, [Ok(&"one"), Err("negative"), Err("two")]);
    }

    #[test]
    fn one_failure_answers_for_all_accepted_items() {
        let merged = read(vec![1, -1]).merge::<()>(Err(Status::internal("down")));
        let texts: Vec<_> = merged.iter().map(|item| item.as_ref().map_err(Status::message)).collect();
        assert_eq!(texts, [Err("down"), Err("negative")]);
    }
}
