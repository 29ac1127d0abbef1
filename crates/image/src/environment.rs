//! The application's environment: what the container image says, what the image version says, and
//! what the service injects, in that order of precedence.

use crate::request::BuildRequest;

/// Variables that the service sets and nobody else may (specification, section 16).
fn injected(request: &BuildRequest) -> [(&'static str, &str); 4] {
    [
        ("AWS_LAMBDA_MICROVM_IMAGE_NAME", &request.image_name),
        ("AWS_LAMBDA_MICROVM_IMAGE_ARN", &request.image_arn),
        ("AWS_LAMBDA_MICROVM_IMAGE_VERSION", &request.image_version),
        ("AWS_REGION", &request.region),
    ]
}

/// `KEY=value` entries, each key once. The image version's variables win over the container
/// image's, the injected ones over both.
pub(crate) fn application_environment(container: &[String], request: &BuildRequest) -> Vec<String> {
    let mut entries: Vec<(String, String)> = Vec::new();
    let mut set = |key: &str, value: &str| match entries.iter_mut().find(|(known, _)| known == key)
    {
        Some(entry) => value.clone_into(&mut entry.1),
        None => entries.push((key.to_owned(), value.to_owned())),
    };
    for (key, value) in container.iter().filter_map(|entry| entry.split_once('=')) {
        set(key, value);
    }
    for (key, value) in &request.environment {
        set(key, value);
    }
    for (key, value) in injected(request) {
        set(key, value);
    }
    entries
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::application_environment;
    use crate::request::tests::request;

    #[test]
    fn the_image_version_wins_over_the_dockerfile_and_the_service_over_both() {
        let mut request = request();
        request.environment = vec![
            ("MODE".into(), "version".into()),
            ("AWS_REGION".into(), "elsewhere".into()),
        ];
        let container = [
            "PATH=/bin".to_owned(),
            "MODE=dockerfile".into(),
            "AWS_LAMBDA_MICROVM_IMAGE_NAME=x".into(),
        ];
        assert_eq!(
            application_environment(&container, &request),
            [
                "PATH=/bin",
                "MODE=version",
                "AWS_LAMBDA_MICROVM_IMAGE_NAME=shop",
                "AWS_REGION=us-east-1",
                "AWS_LAMBDA_MICROVM_IMAGE_ARN=arn:aws:lambda:us-east-1:000000000000:microvm-image:shop",
                "AWS_LAMBDA_MICROVM_IMAGE_VERSION=1.0",
            ]
        );
    }
}
