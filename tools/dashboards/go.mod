module antrea.local/tools/dashboards

go 1.24.2

require github.com/grafana/grafana-foundation-sdk/go v0.0.22
