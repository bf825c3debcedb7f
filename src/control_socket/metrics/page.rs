//! A page of metrics as it is put together: in the order in which they were added, each name and each set of labels
//! once, whatever guests and interfaces are called.

use std::collections::HashMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

/// What tells one number of a metric from the others.
pub(super) type Labels = Vec<(&'static str, String)>;

/// One name with its numbers.
#[derive(Debug)]
struct Metric {
    name: &'static str,
    help: &'static str,
    numbers: Numbers,
}

#[derive(Debug)]
enum Numbers {
    Counters(Vec<(Labels, u64)>),
    Gauges(Vec<(Labels, f64)>),
    Histograms(Vec<(Labels, Histogram)>),
}

/// Times in seconds.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    pub(super) sum: f64,
    /// The upper bound of each bucket, the last infinite, and how many are in it and not in the one before.
    pub(super) buckets: Vec<(f64, u64)>,
}

/// The page.
#[derive(Debug, Default)]
pub(super) struct Page(Vec<Metric>);

impl Page {
    /// A number that only grows; `_total` is added to its name.
    pub(super) fn counter(&mut self, name: &'static str, help: &'static str, numbers: impl IntoIterator<Item = (Labels, u64)>) {
        let numbers = once_each(numbers, |sum, number| *sum += number);
        self.add(name, help, Numbers::Counters(numbers));
    }

    /// A number that is so now.
    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str, numbers: impl IntoIterator<Item = (Labels, f64)>) {
        let numbers = once_each(numbers, |last, number| *last = number);
        self.add(name, help, Numbers::Gauges(numbers));
    }

    /// Times.
    pub(super) fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        numbers: impl IntoIterator<Item = (Labels, Histogram)>,
    ) {
        let numbers = once_each(numbers, |last, number| *last = number);
        self.add(name, help, Numbers::Histograms(numbers));
    }

    fn add(&mut self, name: &'static str, help: &'static str, numbers: Numbers) {
        self.0.push(Metric { name, help, numbers });
    }

    /// As OpenMetrics 1.0 has it.
    pub(super) fn text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// A reader refuses a page on which a set of labels stands twice.
fn once_each<T>(numbers: impl IntoIterator<Item = (Labels, T)>, merge: impl Fn(&mut T, T)) -> Vec<(Labels, T)> {
    let (mut places, mut once) = (HashMap::<Labels, usize>::new(), Vec::<(Labels, T)>::new());
    for (mut labels, number) in numbers {
        labels.iter_mut().for_each(|(_, value)| *value = visible(value));
        match places.get(&labels) {
            Some(place) => merge(&mut once[*place].1, number),
            None => {
                places.insert(labels.clone(), once.len());
                once.push((labels, number));
            }
        }
    }
    once
}

/// A name that was chosen by a stranger, such that no two become one and no terminal is steered.
fn visible(text: &str) -> String {
    let is_plain = |c: char| c == ' ' || c.is_alphanumeric() || c.is_ascii_punctuation();
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            c if is_plain(c) => out.push(c),
            c => out.extend(c.escape_unicode()),
        }
    }
    out
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for Metric { name, help, numbers } in &self.0 {
            match numbers {
                Numbers::Counters(all) if !all.is_empty() => {
                    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
                    for (labels, number) in all {
                        labelled(&mut metric, labels, |one| one.encode_counter::<NoLabelSet, u64, u64>(number, None))?;
                    }
                }
                Numbers::Gauges(all) if !all.is_empty() => {
                    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                    for (labels, number) in all {
                        labelled(&mut metric, labels, |one| one.encode_gauge(number))?;
                    }
                }
                Numbers::Histograms(all) if !all.is_empty() => {
                    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
                    for (labels, Histogram { sum, buckets }) in all {
                        let count = buckets.iter().map(|(_, count)| count).sum();
                        labelled(&mut metric, labels, |one| one.encode_histogram::<NoLabelSet>(*sum, count, buckets, None))?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn labelled(
    metric: &mut MetricEncoder<'_>,
    labels: &Labels,
    write: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    if labels.is_empty() { write(metric) } else { write(&mut metric.encode_family(labels)?) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_apart_and_on_their_lines() {
        let names = ["a\"b", "a\\b", "a\nb", "a\\u{a}b", "\u{1b}[2J", "\u{202e}x", "é ok"];
        let mut page = Page::default();
        page.counter("frames", "Frames", names.map(|name| (vec![("port", name.to_owned())], 1)));
        let text = page.text().unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("frames_total{")).collect();
        let wanted = [
            r#"frames_total{port="a\"b"} 1"#,
            r#"frames_total{port="a\\\\b"} 1"#,
            r#"frames_total{port="a\\u{a}b"} 1"#,
            r#"frames_total{port="a\\\\u{a}b"} 1"#,
            r#"frames_total{port="\\u{1b}[2J"} 1"#,
            r#"frames_total{port="\\u{202e}x"} 1"#,
            r#"frames_total{port="é ok"} 1"#,
        ];
        assert_eq!(lines, wanted);
    }

    #[test]
    fn labels_that_come_twice_are_written_once() {
        let mut page = Page::default();
        let twice = |number: u64| (vec![("port", "a".to_owned())], number);
        page.counter("frames", "Frames", [twice(1), twice(2)]);
        page.gauge("none", "Nothing", []);
        assert_eq!(page.text().unwrap(), "# HELP frames Frames\n# TYPE frames counter\nframes_total{port=\"a\"} 3\n# EOF\n");
    }
}
