//! A model store in a folder.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use chrono::{DateTime, NaiveDate, Utc};
use model_store::{Canary, Channel, ModelStore, StoreError};
use scoring::{Artifact, ModelKind, TensorFile};

const KIND: ModelKind = ModelKind::Churn;

fn artifact(seed: u64) -> Artifact {
    made("test", seed)
}

fn made(recipe: &str, seed: u64) -> Artifact {
    let as_of = NaiveDate::from_ymd_opt(2011, 9, 1).unwrap().into();
    let tensors = TensorFile::new()
        .with("x", &[2], &[1f32, 2.0])
        .into_bytes()
        .unwrap();
    Artifact::builder(KIND, recipe, as_of, seed)
        .file("model.safetensors", tensors)
        .finish()
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).unwrap()
}

fn store() -> (tempfile::TempDir, ModelStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = ModelStore::open(folder.path().join("models").to_str().unwrap()).unwrap();
    (folder, store)
}

#[tokio::test]
async fn a_published_model_is_current_and_comes_back_as_it_went() {
    let (_folder, store) = store();
    assert_eq!(store.current(KIND).await.unwrap(), None);
    assert_eq!(store.versions(KIND).await.unwrap(), vec![]);

    let first = artifact(1);
    let pointer = store.publish(&first, now()).await.unwrap();
    assert_eq!(pointer.version, first.manifest().version);
    let fetched = store.fetch(KIND, &pointer.version).await.unwrap();
    assert_eq!(
        (fetched.manifest(), fetched.files()),
        (first.manifest(), first.files())
    );
    assert_eq!(
        store.publish(&first, now()).await.unwrap(),
        pointer,
        "publishing again changes nothing"
    );
}

#[tokio::test]
async fn a_folder_is_found_by_a_path_with_parents_and_links_in_it() {
    let (folder, store) = store();
    let version = store.publish(&artifact(1), now()).await.unwrap().version;
    let root = folder.path();
    std::fs::create_dir_all(root.join("far/away")).unwrap();
    std::os::unix::fs::symlink(root.join("far/away"), root.join("link")).unwrap();
    let inside = std::env::current_dir().unwrap();
    let up = inside
        .components()
        .skip(1)
        .map(|_| "../")
        .collect::<String>();
    let relative = format!("{up}{}/models", root.strip_prefix("/").unwrap().display());
    for place in [
        "absent/../models",
        "far/away/../../models",
        "link/../../models",
        "./models/",
    ]
    .map(|place| root.join(place).display().to_string())
    .into_iter()
    .chain([relative])
    {
        let found = ModelStore::open(&place)
            .unwrap()
            .current(KIND)
            .await
            .unwrap();
        assert_eq!(
            found.map(|pointer| pointer.version).as_ref(),
            Some(&version),
            "{place}"
        );
    }
}

#[tokio::test]
async fn rollback_goes_to_the_version_before_or_to_a_named_one() {
    let (_folder, store) = store();
    let (one, two) = (artifact(1), artifact(2));
    store.publish(&one, now()).await.unwrap();
    let alone = store.rollback(KIND, None, now()).await.unwrap_err();
    assert!(matches!(alone, StoreError::NothingBefore { .. }), "{alone}");

    store.publish(&two, now()).await.unwrap();
    assert_eq!(
        store.rollback(KIND, None, now()).await.unwrap().version,
        one.manifest().version
    );
    let named = store
        .rollback(KIND, Some(&two.manifest().version), now())
        .await
        .unwrap();
    assert_eq!(
        (named.version, named.previous),
        (
            two.manifest().version.clone(),
            Some(one.manifest().version.clone())
        )
    );

    let current: Vec<_> = store
        .versions(KIND)
        .await
        .unwrap()
        .into_iter()
        .map(|(m, c)| (m.version, c))
        .collect();
    assert_eq!(current.len(), 2);
    assert!(current.contains(&(two.manifest().version.clone(), Some(Channel::Stable))));
    for absent in ["20110901T000000-000000000000", "../../etc", ""] {
        let refused = store.rollback(KIND, Some(absent), now()).await.unwrap_err();
        assert!(matches!(refused, StoreError::NoVersion { .. }), "{refused}");
    }
}

#[tokio::test]
async fn rollbacks_go_further_back_each_time_and_never_forward() {
    let (folder, store) = store();
    let mut versions = Vec::new();
    for seed in 0..4 {
        versions.push(store.publish(&artifact(seed), now()).await.unwrap().version);
    }
    let back = async |version: Option<&str>| {
        store
            .rollback(KIND, version, now())
            .await
            .map(|pointer| pointer.version)
    };
    assert_eq!(back(None).await.unwrap(), versions[2]);
    assert_eq!(back(None).await.unwrap(), versions[1]);
    // What is published then comes after what it replaced.
    store.point(KIND, &versions[3], now()).await.unwrap();
    assert_eq!(back(None).await.unwrap(), versions[1]);
    assert_eq!(back(None).await.unwrap(), versions[0]);
    let first = back(None).await.unwrap_err();
    assert!(matches!(first, StoreError::NothingBefore { .. }), "{first}");

    for version in &versions[1..] {
        store.point(KIND, version, now()).await.unwrap();
    }
    assert_eq!(back(Some(&versions[1])).await.unwrap(), versions[1]);
    assert_eq!(
        back(None).await.unwrap(),
        versions[0],
        "a named version is gone back to as well"
    );

    store.point(KIND, &versions[1], now()).await.unwrap();
    std::fs::remove_dir_all(folder.path().join("models/churn").join(&versions[0])).unwrap();
    let gone = back(None).await.unwrap_err();
    assert!(matches!(gone, StoreError::NoVersion { .. }), "{gone}");
    assert_eq!(
        store.current(KIND).await.unwrap().unwrap().version,
        versions[1]
    );
}

#[tokio::test]
async fn the_version_before_of_the_same_recipe_is_found_behind_others() {
    let (folder, store) = store();
    let publish = async |recipe, seed| {
        store
            .publish(&made(recipe, seed), now())
            .await
            .unwrap()
            .version
    };
    let before = async |version: &str, recipe| store.before(KIND, version, recipe).await.unwrap();
    assert_eq!(before("none", "default").await, None);
    let first = publish("default", 1).await;
    assert_eq!(
        before(&first, "default").await,
        None,
        "it is the current one"
    );
    let second = publish("default", 2).await;
    let other = publish("rfm3", 1).await;
    let third = publish("default", 3).await;
    assert_eq!(before(&third, "default").await.as_ref(), Some(&second));
    assert_eq!(before(&third, "rfm3").await.as_ref(), Some(&other));
    assert_eq!(
        before(&second, "default").await.as_ref(),
        Some(&first),
        "the one that answers where the third is refused"
    );
    assert_eq!(before("on-trial", "default").await.as_ref(), Some(&third));
    std::fs::remove_dir_all(folder.path().join("models/churn").join(second)).unwrap();
    assert_eq!(before(&third, "default").await.as_ref(), Some(&first));
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "a scenario told in order: versions go on trial, are promoted and are withdrawn"
)]
async fn versions_are_tried_beside_the_current_one_and_become_it_or_go() {
    let (folder, store) = store();
    let [one, two, three] = [1, 2, 3].map(artifact);
    let version = |artifact: &Artifact| artifact.manifest().version.clone();
    let canary = |artifact, percent| {
        Some(Canary {
            version: version(artifact),
            percent,
        })
    };
    for artifact in [&one, &two, &three] {
        store.upload(artifact).await.unwrap();
    }
    let alone = store.set_canary(KIND, canary(&two, 10)).await.unwrap_err();
    assert!(
        matches!(alone, StoreError::NothingCurrent { .. }),
        "{alone}"
    );
    // As it was written before there were trials.
    let pointer = folder.path().join("models/churn/current.json");
    let moved_at = "2023-11-14T22:13:20Z";
    std::fs::write(
        &pointer,
        format!(
            r#"{{"version": "{}", "moved_at": "{moved_at}"}}"#,
            version(&one)
        ),
    )
    .unwrap();

    let none = store.promote(KIND, None, now()).await.unwrap_err();
    assert!(
        matches!(
            none,
            StoreError::NoTrial {
                channel: Channel::Canary,
                ..
            }
        ),
        "{none}"
    );
    store.set_shadow(KIND, Some(version(&three))).await.unwrap();
    let tried = store.set_canary(KIND, canary(&two, 10)).await.unwrap();
    assert_eq!(
        (&tried.version, &tried.canary, &tried.shadow),
        (&version(&one), &canary(&two, 10), &Some(version(&three)))
    );
    assert_eq!(store.current(KIND).await.unwrap(), Some(tried));
    let versions = store.versions(KIND).await.unwrap();
    let of = |artifact| {
        versions
            .iter()
            .find(|(manifest, _)| manifest.version == version(artifact))
            .unwrap()
            .1
    };
    assert_eq!(
        [&one, &two, &three].map(of),
        [Channel::Stable, Channel::Canary, Channel::Shadow].map(Some)
    );

    assert_eq!(
        store.promote(KIND, Some(50), now()).await.unwrap().canary,
        canary(&two, 50)
    );
    let promoted = store.promote(KIND, None, now()).await.unwrap();
    assert_eq!(
        (&promoted.version, &promoted.previous, &promoted.canary),
        (&version(&two), &Some(version(&one)), &None)
    );
    assert_eq!(
        promoted.shadow,
        Some(version(&three)),
        "one trial is not the other"
    );
    store.set_canary(KIND, canary(&one, 10)).await.unwrap();
    assert_eq!(store.set_canary(KIND, None).await.unwrap().canary, None);
    let none = store.set_canary(KIND, None).await.unwrap_err();
    assert!(
        matches!(
            none,
            StoreError::NoTrial {
                channel: Channel::Canary,
                ..
            }
        ),
        "{none}"
    );
    assert_eq!(
        store
            .point(KIND, &version(&three), now())
            .await
            .unwrap()
            .shadow,
        None,
        "it is on trial no more"
    );
    let absent = Some("20110901T000000-000000000000".to_owned());
    assert!(matches!(
        store.set_shadow(KIND, absent).await.unwrap_err(),
        StoreError::NoVersion { .. }
    ));
}

#[tokio::test]
async fn a_damaged_version_is_refused_by_name() {
    let (folder, store) = store();
    let version = store.publish(&artifact(1), now()).await.unwrap().version;
    let place = folder.path().join("models/churn").join(&version);
    let file = place.join("model.safetensors");
    let whole = std::fs::read(&file).unwrap();

    let manifest = std::fs::read(place.join("manifest.json")).unwrap();
    let other = store.publish(&artifact(2), now()).await.unwrap().version;
    std::fs::copy(
        folder
            .path()
            .join("models/churn")
            .join(&other)
            .join("manifest.json"),
        place.join("manifest.json"),
    )
    .unwrap();
    let swapped = store.fetch(KIND, &version).await.unwrap_err().to_string();
    assert!(
        swapped.contains(&format!(
            "manifest.json is damaged: it is of version `{other}`"
        )),
        "{swapped}"
    );
    std::fs::write(place.join("manifest.json"), manifest).unwrap();

    std::fs::write(&file, &whole[1..]).unwrap();
    let cut = store.fetch(KIND, &version).await.unwrap_err().to_string();
    assert!(cut.contains("model.safetensors is damaged"), "{cut}");
    std::fs::remove_file(&file).unwrap();
    let gone = store.fetch(KIND, &version).await.unwrap_err().to_string();
    assert!(gone.contains("model.safetensors is missing"), "{gone}");
    std::fs::write(place.join("manifest.json"), "{").unwrap();
    let torn = store.fetch(KIND, &version).await.unwrap_err().to_string();
    assert!(torn.contains("manifest.json is unreadable"), "{torn}");
}

#[tokio::test]
async fn a_large_file_that_was_fetched_stays_whatever_becomes_of_the_stores() {
    let (folder, store) = store();
    let numbers: Vec<f32> = (0..2_000_000_u32).map(|n| n as f32).collect();
    let tensors = TensorFile::new()
        .with("x", &[numbers.len()], &numbers)
        .into_bytes()
        .unwrap();
    let as_of = NaiveDate::from_ymd_opt(2011, 9, 1).unwrap().into();
    let large = Artifact::builder(KIND, "large", as_of, 1)
        .file("model.safetensors", tensors)
        .finish();
    let version = store.publish(&large, now()).await.unwrap().version;
    let fetched = store.fetch(KIND, &version).await.unwrap();
    let kept = fetched
        .tensors("model.safetensors")
        .unwrap()
        .keep::<f32>("x", &[numbers.len()])
        .unwrap();
    drop(fetched);
    let file = folder
        .path()
        .join(format!("models/churn/{version}/model.safetensors"));
    std::fs::write(file, "damaged").unwrap();
    assert!(*kept == numbers);
    assert!(store.fetch(KIND, &version).await.is_err());
}

#[tokio::test]
async fn publishing_a_damaged_version_again_mends_it() {
    let (folder, store) = store();
    let whole = artifact(1);
    let version = store.publish(&whole, now()).await.unwrap().version;
    let place = folder.path().join("models/churn").join(&version);
    let file = place.join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let (cut, other) = (
        bytes[1..].to_vec(),
        bytes.iter().map(|byte| !byte).collect::<Vec<_>>(),
    );
    for damaged in [Some(cut), Some(other), None] {
        match damaged {
            Some(damaged) => std::fs::write(&file, damaged).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        store.fetch(KIND, &version).await.unwrap_err();
        store.publish(&whole, now()).await.unwrap();
        assert_eq!(
            store.fetch(KIND, &version).await.unwrap().files(),
            whole.files()
        );
    }
    std::fs::write(place.join("manifest.json"), "{").unwrap();
    store.publish(&whole, now()).await.unwrap();
    assert_eq!(
        store.fetch(KIND, &version).await.unwrap().manifest(),
        whole.manifest()
    );
}

#[tokio::test]
async fn a_pointer_that_is_none_is_named_and_replaced() {
    let (folder, store) = store();
    let version = store.publish(&artifact(1), now()).await.unwrap().version;
    let pointer = folder.path().join("models/churn/current.json");
    for bytes in [
        "",
        "{}",
        r#"{"version": "../x", "moved_at": "2023-11-14T22:13:20Z"}"#,
        r#"{"version": "x", "moved_at": "2023-11-14T22:13:20Z",
            "canary": {"version": "../x", "percent": 10}}"#,
        r#"{"version": "x", "moved_at": "2023-11-14T22:13:20Z", "shadow": "../x"}"#,
        r#"{"version": "x", "moved_at": "2023-11-14T22:13:20Z", "earlier": ["../x"]}"#,
    ] {
        std::fs::write(&pointer, bytes).unwrap();
        let error = store.current(KIND).await.unwrap_err().to_string();
        assert!(
            error.contains("churn/current.json is not a pointer"),
            "{error}"
        );
        let listed = store.versions(KIND).await.unwrap();
        assert_eq!(
            listed
                .iter()
                .map(|(of, channel)| (&of.version, *channel))
                .collect::<Vec<_>>(),
            [(&version, None)]
        );
        assert!(
            store.rollback(KIND, None, now()).await.is_err(),
            "nobody knows what was before"
        );
        assert!(
            store.point_from(KIND, "", &version, now()).await.is_err(),
            "nor what is current"
        );
        assert!(store.set_shadow(KIND, Some(version.clone())).await.is_err());
        // As the error says.
        assert_eq!(
            store
                .rollback(KIND, Some(&version), now())
                .await
                .unwrap()
                .version,
            version
        );
        std::fs::write(&pointer, bytes).unwrap();
        assert_eq!(
            store.publish(&artifact(1), now()).await.unwrap().version,
            version
        );
        assert_eq!(store.current(KIND).await.unwrap().unwrap().version, version);
    }
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_named_with_what_to_do() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let place = file.path().join("models");
    let store = ModelStore::open(place.to_str().unwrap()).unwrap();
    let error = store
        .publish(&artifact(1), now())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains(&place.display().to_string()), "{error}");
}

#[tokio::test]
async fn publishers_at_the_same_time_leave_one_whole_version_current() {
    let (_folder, store) = store();
    let publishers = (0..8).map(|seed| {
        let store = store.clone();
        tokio::spawn(async move { store.publish(&artifact(seed), now()).await.map(drop) })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.await.unwrap().unwrap();
    }
    let version = store.current(KIND).await.unwrap().unwrap().version;
    assert!(store.fetch(KIND, &version).await.is_ok());
    assert_eq!(store.versions(KIND).await.unwrap().len(), 8);
}

#[tokio::test]
async fn of_many_who_expect_the_same_version_one_moves_the_pointer() {
    let (_folder, store) = store();
    let versions: Vec<_> = (0..8)
        .map(|seed| artifact(seed).manifest().version.clone())
        .collect();
    for seed in 0..8 {
        store.upload(&artifact(seed)).await.unwrap();
    }
    store
        .point_from(KIND, "", &versions[0], now())
        .await
        .unwrap();
    let movers = versions[1..].iter().cloned().map(|version| {
        let (store, expected) = (store.clone(), versions[0].clone());
        tokio::spawn(async move { store.point_from(KIND, &expected, &version, now()).await })
    });
    let mut moved = Vec::new();
    for mover in movers.collect::<Vec<_>>() {
        match mover.await.unwrap() {
            Ok(pointer) => moved.push(pointer),
            Err(refused) => assert!(matches!(refused, StoreError::Moved { .. }), "{refused}"),
        }
    }
    assert_eq!(moved, [store.current(KIND).await.unwrap().unwrap()]);
    assert_eq!(moved[0].previous.as_ref(), Some(&versions[0]));
}
