//! How a layer meets the rest of the stack: as one async function, which gets the call and what
//! answers it below.
//!
//! tower's `Service` would ask for more of each layer: a readiness, a clone of all that is below it
//! for each call, and a box around each future. Nothing in the stack pushes back before it has seen
//! the call, so that readiness says nothing; and the futures of layers that are known at compile
//! time need no boxes. The stack is a `Service` again at its top (`layers::rescue`).

use std::sync::Arc;

use tower::Layer;

use crate::outcome::Answer;

/// Answers requests: a layer together with all that is below it, or the bottom of the stack. A
/// clone is cheap and shares all state.
pub(crate) trait Handler<R>: Clone + Send + Sync + 'static {
    /// Answers one request.
    fn call(&self, request: R) -> impl Future<Output = Answer> + Send;
}

/// A layer of the stack.
pub(crate) trait Middleware<R>: Send + Sync + 'static {
    /// What the layers below get.
    type Next;

    /// Answers a request itself, or lets `next` answer.
    fn handle(
        &self,
        request: R,
        next: &impl Handler<Self::Next>,
    ) -> impl Future<Output = Answer> + Send;
}

/// A layer, and all that is below it.
#[derive(Debug)]
pub(crate) struct Layered<M, H> {
    middleware: Arc<M>,
    next: H,
}

impl<M, H: Clone> Clone for Layered<M, H> {
    fn clone(&self) -> Self {
        Self {
            middleware: self.middleware.clone(),
            next: self.next.clone(),
        }
    }
}

impl<R, M: Middleware<R>, H: Handler<M::Next>> Handler<R> for Layered<M, H> {
    fn call(&self, request: R) -> impl Future<Output = Answer> + Send {
        self.middleware.handle(request, &self.next)
    }
}

/// Puts a middleware on top of what answers below it.
#[derive(Debug, Clone)]
pub(crate) struct MiddlewareLayer<M>(Arc<M>);

impl<M> MiddlewareLayer<M> {
    pub(crate) fn new(middleware: M) -> Self {
        Self(Arc::new(middleware))
    }
}

impl<M, H> Layer<H> for MiddlewareLayer<M> {
    type Service = Layered<M, H>;

    fn layer(&self, next: H) -> Layered<M, H> {
        Layered {
            middleware: self.0.clone(),
            next,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::error::BoxError;
    use http::Response;
    use tonic::body::Body;
    use tower::{Service, ServiceExt};

    /// A tower service, such as a mock, at the bottom of a stack.
    #[derive(Debug, Clone)]
    pub(crate) struct Bottom<S>(pub(crate) S);

    impl<R, S> Handler<R> for Bottom<S>
    where
        R: Send,
        S: Service<R, Response = Response<Body>, Error = BoxError> + Clone + Send + Sync + 'static,
        S::Future: Send,
    {
        async fn call(&self, request: R) -> Answer {
            self.0.clone().oneshot(request).await
        }
    }
}
