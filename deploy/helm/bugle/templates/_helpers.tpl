{{- define "bugle.name" -}}
{{- if contains "bugle" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-bugle" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "bugle.selector" -}}
app.kubernetes.io/name: bugle
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "bugle.labels" -}}
{{ include "bugle.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- /* What workers join with, a key for each pool. The platform writes it. */}}
{{- define "bugle.joinSecret" -}}
{{ include "bugle.name" . }}-join
{{- end }}

{{- define "bugle.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* "true" where functions are in an etcd, which several gateways may share. */}}
{{- define "bugle.shares" -}}
{{- eq (dig "store" "kind" "" .Values.config) "etcd" }}
{{- end }}

{{- /* What keeps several gateways from working together. */}}
{{- define "bugle.check" -}}
{{- if gt (int .Values.replicas) 1 }}
{{- if ne (include "bugle.shares" .) "true" }}
{{- fail (printf "replicas is %d: several gateways share an etcd, but config.store.kind is not etcd; the embedded store has one writer" (int .Values.replicas)) }}
{{- end }}
{{- if not .Values.environmentKey.secret }}
{{- fail (printf "replicas is %d, but environmentKey.secret is empty: gateways need the same key. Make it with `head -c 32 /dev/urandom > environment.key` and `kubectl create secret generic bugle-environment --from-file=environment.key`" (int .Values.replicas)) }}
{{- end }}
{{- end }}
{{- include "bugle.oneBuild" (dict "root" . "running" (lookup "apps/v1" "StatefulSet" .Release.Namespace (include "bugle.name" .))) }}
{{- end }}

{{- /* Gateways of two builds refuse each other, so a rolling update from one to the other would stop at its first Pod. */}}
{{- define "bugle.oneBuild" -}}
{{- $wanted := int .root.Values.replicas }}
{{- $running := int (dig "spec" "replicas" 0 .running) }}
{{- if and (gt $wanted 0) (gt $running 0) (gt (max $wanted $running) 1) }}
{{- $before := (first .running.spec.template.spec.containers).image }}
{{- $after := include "bugle.image" .root }}
{{- if ne $before $after }}
{{- fail (printf "%d gateways run %s, and gateways of two builds do not work together: stop them with `--reuse-values --set replicas=0`, then upgrade to %s" $running $before $after) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* What the chart knows better than the one who installs it; anything else is in .Values.config. */}}
{{- define "bugle.config" -}}
{{- $server := dict
  "data_dir" "/var/lib/bugle"
  "gateway_listen" (printf "0.0.0.0:%d" (int .Values.ports.gateway))
  "control_listen" (printf "0.0.0.0:%d" (int .Values.ports.control))
  "insecure_listen_without_authentication" true }}
{{- $own := dict "server" $server }}
{{- if .Values.pools.enabled }}
{{- $kubernetes := dict
  "namespace" .Release.Namespace
  "image" (include "bugle.image" .)
  "service_account" (printf "%s-worker" (include "bugle.name" .))
  "lease" (printf "%s-pools" (include "bugle.name" .))
  "join_secret" (include "bugle.joinSecret" .)
  "join_address" (printf "%s-nodes.%s.svc:%d" (include "bugle.name" .) .Release.Namespace (int .Values.ports.nodes))
  "drain_seconds" (int .Values.pools.drainSeconds)
  "devices" .Values.pools.devices
  "host_paths" .Values.pools.hostPaths }}
{{- $_ := set $own "kubernetes" $kubernetes }}
{{- $_ := set $own "pools" (dict "backend" "kubernetes") }}
{{- $_ := set $own "nodes" (dict "listen" (printf "0.0.0.0:%d" (int .Values.ports.nodes))) }}
{{- end }}
{{- if eq (include "bugle.shares" .) "true" }}
{{- $_ := set $own "cluster" (dict "listen" (printf "0.0.0.0:%d" (int .Values.ports.gateways))) }}
{{- end }}
{{- mustMergeOverwrite (deepCopy .Values.config) $own | toToml }}
{{- end }}
