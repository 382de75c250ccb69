// Copyright: Contributors to the keyward.pki project
// GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
// A PowerShell that runs one request after the other (server.py sends them), each in a new runspace and in the environment that comes with it.
using System;
using System.Collections;
using System.Collections.Generic;
using System.Collections.ObjectModel;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Management.Automation;
using System.Management.Automation.Host;
using System.Management.Automation.Language;
using System.Management.Automation.Runspaces;
using System.Net;
using System.Net.Sockets;
using System.Reflection;
using System.Security;
using System.Text;
using System.Text.Json.Nodes;
using System.Threading;

namespace Keyward.Adcs
{
    public static class Warm
    {
        private static readonly Dictionary<string, string> s_texts = new Dictionary<string, string>();
        private static readonly Dictionary<string, Parsed> s_scripts = new Dictionary<string, Parsed>();

        private static string Text(string name) => s_texts.TryGetValue(name, out string text) ? text : name;

        public static string[] Texts(string[] names) => names.Select(Text).ToArray();

        // What Parser.ParseInput does, whose trees do nothing here but make script blocks.
        public static Parsed Parse(string name, string file, out Token[] tokens, out ParseError[] errors)
        {
            tokens = new Token[0];
            errors = new ParseError[0];
            string key = file + " " + name;
            if (s_scripts.TryGetValue(key, out Parsed known)) return known;
            var parsed = new Parsed(Parser.ParseInput(Text(name), file, out tokens, out errors).GetScriptBlock());
            if (errors.Length == 0) s_scripts[key] = parsed;
            return parsed;
        }

        public static void Serve(string path)
        {
            // Standard input ends with the server that started this process.
            Watch(() => Console.OpenStandardInput().Read(new byte[1]) == 0);
            using var listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            listener.Bind(new UnixDomainSocketEndPoint(path));
            listener.Listen(1);
            bool ends = false;
            while (!ends)
            {
                using Socket client = listener.Accept();
                JsonNode request = Read(client);
                bool answered = false;
                // Whoever asked is gone: what runs for it goes too.
                Watch(() => client.Receive(new byte[1]) == 0 && !answered);
                JsonObject answer = Run(request);
                ends = CleanUp();
                answer["ends"] = ends;
                answered = true;
                client.Send(Encoding.UTF8.GetBytes(answer.ToJsonString()));
            }
        }

        private static void Watch(Func<bool> isOver)
        {
            void Wait()
            {
                bool over;
                try { over = isOver(); }
                catch (Exception e) when (e is SocketException || e is ObjectDisposedException) { over = false; }
                if (over) Process.GetCurrentProcess().Kill();
            }
            new Thread(Wait) { IsBackground = true }.Start();
        }

        private static JsonNode Read(Socket client)
        {
            byte[] Exactly(int size)
            {
                var data = new byte[size];
                for (int at = 0, count; at < size; at += count)
                    if ((count = client.Receive(data, at, size - at, SocketFlags.None)) == 0) throw new EndOfStreamException();
                return data;
            }
            return JsonNode.Parse(Exactly(IPAddress.NetworkToHostOrder(BitConverter.ToInt32(Exactly(4)))));
        }

        private static JsonObject Run(JsonNode request)
        {
            foreach (DictionaryEntry old in Environment.GetEnvironmentVariables()) Environment.SetEnvironmentVariable((string)old.Key, null);
            foreach (var pair in request["environment"].AsObject()) Environment.SetEnvironmentVariable(pair.Key, (string)pair.Value);
            foreach (var pair in request["texts"].AsObject()) s_texts[pair.Key] = (string)pair.Value;
            var host = new Plain();
            InitialSessionState state = InitialSessionState.CreateDefault2();
            state.ThrowOnRunspaceOpenError = false;
            using Runspace runspace = RunspaceFactory.CreateRunspace(host, state);
            runspace.Open();
            using PowerShell shell = PowerShell.Create(runspace);
            shell.AddScript((string)request["script"]);
            var output = new StringBuilder();
            try
            {
                foreach (PSObject each in shell.Invoke(((string)request["input"]).Split('\n'))) output.Append(each).Append('\n');
            }
            catch (RuntimeException thrown)
            {
                host.SetShouldExit(1);
                host.Errors.WriteLine(thrown.ErrorRecord.ToString() + thrown.ErrorRecord.InvocationInfo?.PositionMessage);
            }
            foreach (ErrorRecord error in shell.Streams.Error) host.Errors.WriteErrorLine(error.ToString());
            return new JsonObject { ["rc"] = host.ExitCode, ["stdout"] = output.ToString(), ["stderr"] = host.Errors.Text };
        }

        // Whether a request left something behind that still runs. Such a process serves no other.
        private static bool CleanUp()
        {
            PropertyInfo all = typeof(Runspace).GetProperty("RunspaceList", BindingFlags.NonPublic | BindingFlags.Static);
            bool busy = false;
            foreach (Runspace each in ((IEnumerable<Runspace>)all.GetValue(null)).ToArray())
            {
                if (each == Runspace.DefaultRunspace) continue;
                if (each.RunspaceAvailability == RunspaceAvailability.Busy) busy = true;
                else each.Dispose();
            }
            return busy;
        }
    }

    // Its script blocks share what the engine compiled of them, as those of one function do.
    public sealed class Parsed
    {
        private static readonly MethodInfo s_clone = typeof(ScriptBlock).GetMethod("Clone", BindingFlags.NonPublic | BindingFlags.Instance, new Type[0]);
        private readonly ScriptBlock _script;
        internal Parsed(ScriptBlock script) { _script = script; }
        public ScriptBlock GetScriptBlock() => (ScriptBlock)s_clone.Invoke(_script, null);
    }

    // A host without a console: what is written is kept as text for standard error.
    public sealed class Plain : PSHost
    {
        public PlainUI Errors { get; } = new PlainUI();
        public int ExitCode { get; private set; }
        public override string Name => "ConsoleHost";
        public override Version Version { get; } = typeof(PSObject).Assembly.GetName().Version;
        public override Guid InstanceId { get; } = Guid.NewGuid();
        public override PSHostUserInterface UI => Errors;
        public override CultureInfo CurrentCulture { get; } = CultureInfo.CurrentCulture;
        public override CultureInfo CurrentUICulture { get; } = CultureInfo.CurrentUICulture;
        public override void SetShouldExit(int exitCode) => ExitCode = exitCode;
        public override void EnterNestedPrompt() => throw new PSNotSupportedException();
        public override void ExitNestedPrompt() { }
        public override void NotifyBeginApplication() { }
        public override void NotifyEndApplication() { }
    }

    public sealed class PlainUI : PSHostUserInterface
    {
        private readonly StringBuilder _text = new StringBuilder();
        public string Text => _text.ToString();
        public override PSHostRawUserInterface RawUI => null;
        public override void Write(string value) => _text.Append(value);
        public override void Write(ConsoleColor foreground, ConsoleColor background, string value) => Write(value);
        public override void WriteLine(string value) => Write(value + "\n");
        public override void WriteErrorLine(string value) => WriteLine(value);
        public override void WriteDebugLine(string message) => WriteLine("DEBUG: " + message);
        public override void WriteVerboseLine(string message) => WriteLine("VERBOSE: " + message);
        public override void WriteWarningLine(string message) => WriteLine("WARNING: " + message);
        public override void WriteProgress(long sourceId, ProgressRecord record) { }
        public override string ReadLine() => throw new PSNotSupportedException();
        public override SecureString ReadLineAsSecureString() => throw new PSNotSupportedException();
        public override Dictionary<string, PSObject> Prompt(string caption, string message, Collection<FieldDescription> descriptions) =>
            throw new PSNotSupportedException();
        public override int PromptForChoice(string caption, string message, Collection<ChoiceDescription> choices, int chosen) =>
            throw new PSNotSupportedException();
        public override PSCredential PromptForCredential(string caption, string message, string userName, string targetName) =>
            throw new PSNotSupportedException();
        public override PSCredential PromptForCredential(
            string caption, string message, string userName, string targetName, PSCredentialTypes types, PSCredentialUIOptions options) =>
            throw new PSNotSupportedException();
    }
}
