//! The context of a call, and the environment of the process.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::support::{Machine, json, on_every_interpreter, on_old_and_new, request};

#[test]
fn the_context_has_every_name_of_the_contract() {
    on_every_interpreter(|machine: Machine| async move {
        let source = "NAMES = '''getRequestID getProjectID getTenantID getPackage getFunctionName
            getVersion getAlias getMemorySize getCPUNumber getRunningTimeInSeconds getAccessKey
            getSecretKey getAuthToken getSecurityAccessKey getSecuritySecretKey getSecurityToken
            get_state get_instance_id get_invoke_id get_trace_id get_invoke_property get_session_id
            get_session_service get_headers get_query get_path get_method get_content_type
            getTraceParent'''.split()
def handler(event, context):
    context.set_state('kept')
    context.setAccessKey('key')
    context.anything = 1
    assert callable(context.get_stream().write) and context.getStream() is context.get_stream()
    values = {name: getattr(context, name)() for name in NAMES}
    values['user'] = [context.getUserData('A'), context.getUserData('B', 'none')]
    values['header'] = context.get_header('X-Thing')
    return values
";
        let function = machine.function(source).environment("A=1");
        let instance = function.start().await.unwrap();
        let mut call = request(b"{}");
        call.meta = Bytes::from_static(
            br#"{"headers": {"x-thing": "t", "x-invoke-tag": "{\"a\": \"b\"}",
                 "x-instance-session": "{\"sessionID\": \"s1\"}"},
                 "query": "a=1", "path": "/p", "method": "POST", "content_type": "text/x",
                 "traceparent": "00-1-2-3"}"#,
        );
        let text = json(&instance.instance.call(call).await.unwrap());
        let mut values: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(
            values
                .remove("get_instance_id")
                .unwrap()
                .as_str()
                .unwrap()
                .len(),
            32
        );
        let shown: Vec<String> = values
            .iter()
            .map(|(name, value)| format!("{name} = {value}"))
            .collect();
        let expected = r#"getAccessKey = "key"
getAlias = ""
getAuthToken = ""
getCPUNumber = 500
getFunctionName = "hello"
getMemorySize = 512
getPackage = "svc"
getProjectID = "default"
getRequestID = "the-request"
getRunningTimeInSeconds = 30
getSecretKey = ""
getSecurityAccessKey = ""
getSecuritySecretKey = ""
getSecurityToken = ""
getTenantID = "default"
getTraceParent = "00-1-2-3"
getVersion = "latest"
get_content_type = "text/x"
get_headers = {"x-instance-session":"{\"sessionID\": \"s1\"}","x-invoke-tag":"{\"a\": \"b\"}","x-thing":"t"}
get_invoke_id = "the-request"
get_invoke_property = {"a":"b"}
get_method = "POST"
get_path = "/p"
get_query = "a=1"
get_session_id = "s1"
get_session_service = null
get_state = "kept"
get_trace_id = "the-request"
header = "t"
user = ["1","none"]"#;
        assert_eq!(shown.join("\n"), expected);
    });
}

#[test]
fn the_remaining_time_counts_down_from_the_limit_of_the_call() {
    on_old_and_new(|machine: Machine| async move {
        let source = "def handler(event, context):\n    \
                      return context.getRemainingTimeInMilliSeconds()\n";
        let instance = machine.start(source).await.unwrap();
        let mut call = request(b"{}");
        call.timeout = Duration::from_secs(5);
        let left: u64 = json(&instance.instance.call(call).await.unwrap())
            .parse()
            .unwrap();
        assert!((4000..=5000).contains(&left), "{left}");
    });
}

#[test]
fn the_environment_is_the_contracts_and_the_users_and_nothing_else() {
    on_every_interpreter(|machine: Machine| async move {
        let source = "import os\ndef handler(event, context):\n    return dict(os.environ)\n";
        let mut function = machine
            .function(source)
            .environment("GREETING=hi\nRUNTIME_TIMEOUT=999\nHOME=/somewhere");
        function.spec.timeout = Duration::from_secs(30);
        let code = function.code();
        let instance = function.start().await.unwrap();
        let text = instance.answer("{}").await;
        let seen: BTreeMap<String, String> = serde_json::from_str(&text).unwrap();
        let names: Vec<&str> = seen.keys().map(String::as_str).collect();
        let expected = [
            "ENV_DELEGATE_DOWNLOAD",
            "FUNCTION_LIB_PATH",
            "GREETING",
            "HOME",
            "INSTANCE_ID",
            "LANG",
            "LD_LIBRARY_PATH",
            "PATH",
            "PYTHONUNBUFFERED",
            "RUNTIME_CODE_ROOT",
            "RUNTIME_CPU",
            "RUNTIME_FUNC_NAME",
            "RUNTIME_FUNC_VERSION",
            "RUNTIME_HANDLER",
            "RUNTIME_MAX_RESP_BODY_SIZE",
            "RUNTIME_MEMORY",
            "RUNTIME_PACKAGE",
            "RUNTIME_PROJECT_ID",
            "RUNTIME_SERVICE_FUNC_VERSION",
            "RUNTIME_TIMEOUT",
            "RUNTIME_USERDATA",
            "TMPDIR",
            "YR_FUNCTION_LIB_PATH",
            "YR_RUNTIME_ID",
            "YR_TENANT_ID",
        ];
        assert_eq!(names, expected);
        assert_eq!(seen["GREETING"], "hi");
        assert_eq!(seen["HOME"], "/somewhere");
        assert_eq!(
            seen["RUNTIME_TIMEOUT"], "30",
            "a user cannot replace the platform's"
        );
        assert_eq!(seen["RUNTIME_SERVICE_FUNC_VERSION"], "0@svc@hello");
        assert_eq!(seen["ENV_DELEGATE_DOWNLOAD"], code.to_str().unwrap());
    });
}

#[test]
fn the_process_is_confined_to_what_it_was_given() {
    on_every_interpreter(|machine: Machine| async move {
        let source = "import os, sys
def handler(event, context):
    status = dict(line.split(':', 1) for line in open('/proc/self/status'))
    limits = [line.split() for line in open('/proc/self/limits')]
    fds = sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:-1]
    return {'cwd': os.getcwd() == os.environ['ENV_DELEGATE_DOWNLOAD'], 'fds': fds,
            'null': os.readlink('/proc/self/fd/0'), 'leader': os.getsid(0) == os.getpid(),
            'privs': status['NoNewPrivs'].strip(), 'core': [l[4] for l in limits if l[1] == 'core'],
            'argv': sys.argv, 'oom': open('/proc/self/oom_score_adj').read().strip()}
";
        let instance = machine.start(source).await.unwrap();
        let answer = instance.answer("{}").await;
        assert_eq!(
            answer,
            r#"{"cwd": true, "fds": [0, 1, 2, 3], "null": "/dev/null", "leader": true, "privs": "1", "core": ["0"], "argv": [""], "oom": "500"}"#
        );
    });
}

#[test]
fn no_two_instances_draw_the_same_random_numbers() {
    on_every_interpreter(|machine: Machine| async move {
        let source = "import random, uuid\n\
                      def handler(event, context):\n    return [random.random(), str(uuid.uuid4())]\n";
        let (one, two) = (
            machine.start(source).await.unwrap(),
            machine.start(source).await.unwrap(),
        );
        let (one, two) = (one.answer("{}").await, two.answer("{}").await);
        let (one, two): ((f64, String), (f64, String)) = (
            serde_json::from_str(&one).unwrap(),
            serde_json::from_str(&two).unwrap(),
        );
        assert!(
            one.0.to_bits() != two.0.to_bits() && one.1 != two.1,
            "{one:?} {two:?}"
        );
    });
}
