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
{{- mustMergeOverwrite (deepCopy .Values.config) $own | toToml }}
{{- end }}
