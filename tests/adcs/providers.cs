// Copyright: Contributors to the keyward.pki project
// GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
// The registry and certificate drives of the simulated Windows host, its service object and its access control lists.
using System;
using System.Collections.Generic;
using System.Collections.ObjectModel;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Management.Automation;
using System.Management.Automation.Provider;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;

namespace System.ServiceProcess
{
    public enum ServiceControllerStatus { Stopped = 1, StartPending, StopPending, Running, ContinuePending, PausePending, Paused }
    public sealed class TimeoutException : SystemException { }
}

namespace Keyward.Adcs
{
    public static class State
    {
        public static string Directory => Environment.GetEnvironmentVariable("KEYWARD_ADCS_STATE");
        public static string In(string name) => Path.Combine(Directory, name);
        [ThreadStatic] private static Dictionary<string, (DateTime, long, JsonNode)> t_read;

        // A drive asks for the same file hundreds of times: it is parsed once, as long as it stays as it is. One that was written just now
        // is parsed each time: it may change again within one tick of the clock that files have.
        public static JsonNode Read(string name)
        {
            var file = new FileInfo(In(name));
            if (!file.Exists) return new JsonObject();
            t_read ??= new Dictionary<string, (DateTime, long, JsonNode)>();
            DateTime written = file.LastWriteTimeUtc;
            bool settled = DateTime.UtcNow - written > TimeSpan.FromMilliseconds(20);
            if (settled && t_read.TryGetValue(file.FullName, out var known) && known.Item1 == written && known.Item2 == file.Length)
                return known.Item3;
            JsonNode content = JsonNode.Parse(File.ReadAllText(file.FullName));
            if (settled) t_read[file.FullName] = (written, file.Length, content);
            return content;
        }
        public static void Write(string name, JsonNode content)
        {
            string fresh = In(name) + "." + Guid.NewGuid().ToString("N") + ".new";
            File.WriteAllText(fresh, content.ToJsonString());
            File.Move(fresh, In(name), true);
            t_read?.Remove(In(name));
        }
        public static JsonNode Switch(string name) => Read("switches.json")[name];
        public static uint Code(JsonNode node)
        {
            string text = node.ToString();
            return text.StartsWith("0x", StringComparison.OrdinalIgnoreCase)
                ? uint.Parse(text.Substring(2), NumberStyles.HexNumber) : (uint)long.Parse(text);
        }
    }

    public sealed class RegistryKey : IDisposable
    {
        internal readonly JsonObject Tree;
        internal readonly string Path;
        internal RegistryKey(JsonObject tree, string path) { Tree = tree; Path = path; }

        internal static string Normal(string path)
        {
            IEnumerable<string> parts = path.Split(new[] { '\\', '/' }, StringSplitOptions.RemoveEmptyEntries);
            if (parts.FirstOrDefault() is string first && first.Equals("HKEY_LOCAL_MACHINE", StringComparison.OrdinalIgnoreCase)) parts = parts.Skip(1);
            return string.Join("\\", parts);
        }
        internal static RegistryKey Open(string path)
        {
            var tree = (JsonObject)State.Read("registry.json");
            path = Normal(path);
            if (path == "") return new RegistryKey(tree, "");
            string spelt = tree.Select(pair => pair.Key).FirstOrDefault(key => key.Equals(path, StringComparison.OrdinalIgnoreCase));
            return spelt == null ? null : new RegistryKey(tree, spelt);
        }
        private JsonObject Values => Path == "" ? new JsonObject() : (JsonObject)Tree[Path];
        private string Spelt(string name) => GetValueNames().FirstOrDefault(each => each.Equals(name, StringComparison.OrdinalIgnoreCase));
        internal void Put(string name, object value, string kind)
        {
            value = value is PSObject wrapped ? wrapped.BaseObject : value;
            string old = Spelt(name);
            if (kind == null)
                kind = old != null ? (string)Values[old][0]
                    : value is int ? "REG_DWORD" : value is long ? "REG_QWORD" : value is byte[] ? "REG_BINARY"
                    : value is System.Collections.IEnumerable && value is not string ? "REG_MULTI_SZ" : "REG_SZ";
            JsonNode data = kind switch
            {
                "REG_DWORD" => (uint)LanguagePrimitives.ConvertTo<int>(value),
                "REG_QWORD" => LanguagePrimitives.ConvertTo<long>(value),
                "REG_BINARY" => Convert.ToHexString((byte[])value).ToLowerInvariant(),
                "REG_MULTI_SZ" => new JsonArray(LanguagePrimitives.ConvertTo<string[]>(value).Select(each => (JsonNode)each).ToArray()),
                _ => LanguagePrimitives.ConvertTo<string>(value),
            };
            if (old != null) Values.Remove(old);
            Values[name] = new JsonArray(kind, data);
            State.Write("registry.json", Tree);
        }
        internal bool Remove(string name)
        {
            string old = Spelt(name);
            if (old == null) return false;
            Values.Remove(old);
            State.Write("registry.json", Tree);
            return true;
        }

        public string Name => "HKEY_LOCAL_MACHINE" + (Path == "" ? "" : "\\" + Path);
        public int SubKeyCount => GetSubKeyNames().Length;
        public int ValueCount => Values.Count;
        public string[] GetValueNames() => Values.Select(pair => pair.Key).ToArray();
        public string[] GetSubKeyNames()
        {
            string prefix = Path == "" ? "" : Path + "\\";
            return Tree.Select(pair => pair.Key)
                .Where(key => key.StartsWith(prefix, StringComparison.OrdinalIgnoreCase) && key.Length > prefix.Length)
                .Select(key => key.Substring(prefix.Length).Split('\\')[0]).Distinct(StringComparer.OrdinalIgnoreCase).ToArray();
        }
        public object GetValue(string name) => GetValue(name, null);
        public object GetValue(string name, object missing)
        {
            string spelt = Spelt(name);
            if (spelt == null) return missing;
            JsonNode data = Values[spelt][1];
            return (string)Values[spelt][0] switch
            {
                "REG_DWORD" => unchecked((int)(long)data),
                "REG_QWORD" => (long)data,
                "REG_BINARY" => Convert.FromHexString((string)data),
                "REG_MULTI_SZ" => data.AsArray().Select(each => (string)each).ToArray(),
                "REG_EXPAND_SZ" => Environment.ExpandEnvironmentVariables((string)data),
                _ => (string)data,
            };
        }
        public string GetValueKind(string name) => (string)Values[Spelt(name)][0] switch
        {
            "REG_DWORD" => "DWord", "REG_QWORD" => "QWord", "REG_BINARY" => "Binary", "REG_MULTI_SZ" => "MultiString",
            "REG_EXPAND_SZ" => "ExpandString", _ => "String",
        };
        public RegistryKey OpenSubKey(string name) => Open((Path == "" ? "" : Path + "\\") + name);
        public void Close() { }
        public void Dispose() { }
        public override string ToString() => Name;
    }

    public sealed class KindParameter
    {
        [Parameter(ValueFromPipelineByPropertyName = true)]
        public string Type { get; set; }
    }

    [CmdletProvider("Registry", ProviderCapabilities.ShouldProcess)]
    public sealed class RegistryProvider : NavigationCmdletProvider, IPropertyCmdletProvider, IDynamicPropertyCmdletProvider
    {
        public override char ItemSeparator => '\\';
        public override char AltItemSeparator => '/';
        protected override Collection<PSDriveInfo> InitializeDefaultDrives() =>
            new Collection<PSDriveInfo> { new PSDriveInfo("HKLM", ProviderInfo, "HKEY_LOCAL_MACHINE", "", null) };
        protected override bool IsValidPath(string path) => true;
        protected override bool ItemExists(string path) => RegistryKey.Open(path) != null;
        protected override bool IsItemContainer(string path) => ItemExists(path);
        protected override bool HasChildItems(string path) => RegistryKey.Open(path)?.SubKeyCount > 0;
        private void Out(RegistryKey key, string path)
        {
            PSObject item = PSObject.AsPSObject(key);
            item.Properties.Add(new PSNoteProperty("Property", key.GetValueNames()));
            WriteItemObject(item, path, true);
        }
        protected override void GetItem(string path) => Out(RegistryKey.Open(path), path);
        protected override void GetChildItems(string path, bool recurse)
        {
            RegistryKey key = RegistryKey.Open(path);
            foreach (string name in key.GetSubKeyNames())
            {
                string child = MakePath(path, name);
                Out(key.OpenSubKey(name), child);
                if (recurse) GetChildItems(child, true);
            }
        }
        protected override void GetChildNames(string path, ReturnContainers returnContainers)
        {
            foreach (string name in RegistryKey.Open(path).GetSubKeyNames()) WriteItemObject(name, MakePath(path, name), true);
        }
        protected override void NewItem(string path, string type, object value)
        {
            var tree = (JsonObject)State.Read("registry.json");
            string made = "";
            foreach (string part in RegistryKey.Normal(path).Split('\\'))
            {
                made = made == "" ? part : made + "\\" + part;
                if (RegistryKey.Open(made) == null) tree[made] = new JsonObject();
            }
            State.Write("registry.json", tree);
            GetItem(path);
        }
        protected override void RemoveItem(string path, bool recurse)
        {
            string prefix = RegistryKey.Normal(path) + "\\";
            var tree = (JsonObject)State.Read("registry.json");
            foreach (string key in tree.Select(pair => pair.Key).Where(key => (key + "\\").StartsWith(prefix, StringComparison.OrdinalIgnoreCase)).ToArray())
                tree.Remove(key);
            State.Write("registry.json", tree);
        }
        private void NoSuchValue(string name, string path) => WriteError(new ErrorRecord(
            new PSArgumentException($"Property {name} does not exist at path {path}."), "System.Management.Automation.PSArgumentException",
            ErrorCategory.InvalidArgument, path));
        public void GetProperty(string path, Collection<string> names)
        {
            RegistryKey key = RegistryKey.Open(path);
            if (key == null) return;
            var bag = new PSObject();
            bool all = names == null || names.Count == 0;
            foreach (string name in all ? key.GetValueNames() : names.ToArray())
            {
                object value = key.GetValue(name);
                if (value == null) NoSuchValue(name, path);
                else bag.Properties.Add(new PSNoteProperty(name, value));
            }
            if (bag.Properties.Any()) WritePropertyObject(bag, path);
        }
        private static string Kind(string type) => type?.ToLowerInvariant() switch
        {
            "dword" => "REG_DWORD", "qword" => "REG_QWORD", "binary" => "REG_BINARY", "multistring" => "REG_MULTI_SZ",
            "expandstring" => "REG_EXPAND_SZ", "string" => "REG_SZ", _ => null,
        };
        public void SetProperty(string path, PSObject values)
        {
            foreach (PSPropertyInfo property in values.Properties)
                if (ShouldProcess(path)) RegistryKey.Open(path).Put(property.Name, property.Value, Kind((DynamicParameters as KindParameter)?.Type));
        }
        public void NewProperty(string path, string name, string type, object value)
        {
            if (!ShouldProcess(path)) return;
            RegistryKey.Open(path).Put(name, value, Kind(type));
            GetProperty(path, new Collection<string> { name });
        }
        public void RemoveProperty(string path, string name)
        {
            if (ShouldProcess(path) && !RegistryKey.Open(path).Remove(name)) NoSuchValue(name, path);
        }
        public void ClearProperty(string path, Collection<string> names) => throw new PSNotSupportedException();
        public void RenameProperty(string path, string from, string to) => throw new PSNotSupportedException();
        public void CopyProperty(string path, string name, string toPath, string toName) => throw new PSNotSupportedException();
        public void MoveProperty(string path, string name, string toPath, string toName) => throw new PSNotSupportedException();
        public object GetPropertyDynamicParameters(string path, Collection<string> names) => null;
        public object SetPropertyDynamicParameters(string path, PSObject values) => new KindParameter();
        public object ClearPropertyDynamicParameters(string path, Collection<string> names) => null;
        public object NewPropertyDynamicParameters(string path, string name, string type, object value) => null;
        public object RemovePropertyDynamicParameters(string path, string name) => null;
        public object RenamePropertyDynamicParameters(string path, string from, string to) => null;
        public object CopyPropertyDynamicParameters(string path, string name, string toPath, string toName) => null;
        public object MovePropertyDynamicParameters(string path, string name, string toPath, string toName) => null;
    }

    // The inside of an X509Certificate2 as Windows shows it when the key that its property names doesn't open: it says that there is a key, for
    // it hasn't tried it. .NET on Linux has no such state.
    public class BrokenKey : System.Reflection.DispatchProxy
    {
        private object _inside;
        private uint _code;

        public static X509Certificate2 Put(X509Certificate2 certificate, uint code)
        {
            const System.Reflection.BindingFlags Any = System.Reflection.BindingFlags.Instance | System.Reflection.BindingFlags.NonPublic;
            object inside = typeof(X509Certificate2).GetProperty("Pal", Any | System.Reflection.BindingFlags.DeclaredOnly).GetValue(certificate);
            Type kind = typeof(X509Certificate2).Assembly.GetType("System.Security.Cryptography.X509Certificates.ICertificatePal", true);
            object proxy = Create(kind, typeof(BrokenKey));
            ((BrokenKey)proxy)._inside = inside;
            ((BrokenKey)proxy)._code = code;
            return (X509Certificate2)typeof(X509Certificate2).GetConstructor(Any, null, new[] { kind }, null).Invoke(new[] { proxy });
        }
        protected override object Invoke(System.Reflection.MethodInfo method, object[] arguments)
        {
            if (method.Name == "get_HasPrivateKey") return true;
            if (method.Name.StartsWith("Get", StringComparison.Ordinal) && method.Name.EndsWith("PrivateKey", StringComparison.Ordinal))
            {
                if (_code == 0) return null;
                throw new CryptographicException(unchecked((int)_code));
            }
            return method.Invoke(_inside, System.Reflection.BindingFlags.DoNotWrapExceptions, null, arguments, null);
        }
    }

    public static class Keys
    {
        public static X509Certificate2 Load(string thumbprint)
        {
            string file = State.In($"store/My/{thumbprint}.crt");
            X509Certificate2 certificate = X509CertificateLoader.LoadCertificateFromFile(file);
            string link = Path.ChangeExtension(file, ".json");
            if (!File.Exists(link)) return certificate;
            string pem = State.In($"keys/{(string)JsonNode.Parse(File.ReadAllText(link))["container"]}.pem");
            uint code = File.Exists(pem) ? Failure(thumbprint) : 0x80090016;
            if (code != 0) return BrokenKey.Put(certificate, code);
            // .NET finds the key of no other algorithm by its class for RSA or EC.
            if (certificate.GetKeyAlgorithm() is not "1.2.840.113549.1.1.1" and not "1.2.840.10045.2.1") return BrokenKey.Put(certificate, 0);
            return certificate.GetKeyAlgorithm() == "1.2.840.113549.1.1.1"
                ? certificate.CopyWithPrivateKey(Imported(RSA.Create(), pem)) : certificate.CopyWithPrivateKey(Imported(ECDsa.Create(), pem));
        }
        private static T Imported<T>(T key, string pem) where T : AsymmetricAlgorithm
        {
            key.ImportFromPem(File.ReadAllText(pem));
            return key;
        }
        private static uint Failure(string thumbprint)
        {
            if (State.Switch("keys_fail") is not JsonObject codes || codes.Count == 0) return 0;
            RegistryKey configuration = RegistryKey.Open(@"SYSTEM\CurrentControlSet\Services\CertSvc\Configuration");
            string[] hashes = (string[])configuration?.OpenSubKey((string)configuration.GetValue("Active", ""))?.GetValue("CACertHash", null) ?? new string[0];
            int index = Array.FindIndex(hashes, hash => hash.Replace(" ", "").Equals(thumbprint, StringComparison.OrdinalIgnoreCase));
            JsonNode code = codes[index.ToString()];
            return code == null ? 0 : State.Code(code);
        }
    }

    public sealed class Place { public string Name { get; set; } }

    [CmdletProvider("Certificate", ProviderCapabilities.ShouldProcess)]
    public sealed class CertificateProvider : NavigationCmdletProvider
    {
        public override char ItemSeparator => '\\';
        public override char AltItemSeparator => '/';
        protected override Collection<PSDriveInfo> InitializeDefaultDrives() =>
            new Collection<PSDriveInfo> { new PSDriveInfo("Cert", ProviderInfo, "\\", "", null) };
        private static string[] Parts(string path) => path.Split(new[] { '\\', '/' }, StringSplitOptions.RemoveEmptyEntries);
        private static string FileOf(string[] parts) => State.In($"store/{Store(parts[1])}/{parts[2].ToUpperInvariant()}.crt");
        private static string Store(string name) => new[] { "My", "Root", "CA" }.FirstOrDefault(each => each.Equals(name, StringComparison.OrdinalIgnoreCase));
        private static bool Machine(string[] parts) => parts[0].Equals("LocalMachine", StringComparison.OrdinalIgnoreCase);
        protected override bool IsValidPath(string path) => true;
        protected override bool ItemExists(string path)
        {
            string[] parts = Parts(path);
            if (parts.Length > 0 && !Machine(parts) && !parts[0].Equals("CurrentUser", StringComparison.OrdinalIgnoreCase)) return false;
            return parts.Length < 2 || (Store(parts[1]) != null && (parts.Length == 2 || (parts.Length == 3 && Machine(parts) && File.Exists(FileOf(parts)))));
        }
        protected override bool IsItemContainer(string path) => Parts(path).Length < 3;
        protected override bool HasChildItems(string path) => Names(Parts(path)).Any();
        private static string[] Names(string[] parts)
        {
            if (parts.Length == 0) return new[] { "CurrentUser", "LocalMachine" };
            if (parts.Length == 1) return new[] { "My", "Root", "CA" };
            string folder = State.In("store/" + Store(parts[1]));
            return parts.Length == 2 && Machine(parts) && Directory.Exists(folder)
                ? Directory.GetFiles(folder, "*.crt").Select(Path.GetFileNameWithoutExtension).OrderBy(name => name).ToArray() : new string[0];
        }
        private static object Item(string[] parts)
        {
            if (parts.Length < 3) return new Place { Name = parts.LastOrDefault() ?? "" };
            return Store(parts[1]) == "My" ? Keys.Load(parts[2].ToUpperInvariant()) : X509CertificateLoader.LoadCertificateFromFile(FileOf(parts));
        }
        protected override void GetItem(string path) => WriteItemObject(Item(Parts(path)), path, IsItemContainer(path));
        protected override void GetChildItems(string path, bool recurse)
        {
            foreach (string name in Names(Parts(path)))
            {
                string child = MakePath(path, name);
                GetItem(child);
                if (recurse && IsItemContainer(child)) GetChildItems(child, true);
            }
        }
        protected override void GetChildNames(string path, ReturnContainers returnContainers)
        {
            foreach (string name in Names(Parts(path))) WriteItemObject(name, MakePath(path, name), Parts(path).Length < 2);
        }
        protected override void RemoveItem(string path, bool recurse)
        {
            string file = FileOf(Parts(path));
            if (!ShouldProcess(path)) return;
            File.Delete(file);
            File.Delete(Path.ChangeExtension(file, ".json"));
        }
    }

    public sealed class Service
    {
        public string Name => "CertSvc";
        public string ServiceName => "CertSvc";
        public string DisplayName => "Active Directory Certificate Services";
        public string MachineName => ".";
        public bool CanStop => Status == System.ServiceProcess.ServiceControllerStatus.Running;
        public string StartType => "Automatic";
        public System.ServiceProcess.ServiceControllerStatus Status { get; private set; }
        public Service() => Refresh();
        public void Refresh() =>
            Status = Enum.Parse<System.ServiceProcess.ServiceControllerStatus>((string)State.Read("machine.json")["service"]);
        public void WaitForStatus(System.ServiceProcess.ServiceControllerStatus desired) => WaitForStatus(desired, TimeSpan.MaxValue);
        public void WaitForStatus(System.ServiceProcess.ServiceControllerStatus desired, TimeSpan timeout)
        {
            DateTime start = DateTime.UtcNow;
            for (Refresh(); Status != desired; Refresh())
            {
                if (DateTime.UtcNow - start > timeout) throw new System.ServiceProcess.TimeoutException();
                System.Threading.Thread.Sleep(50);
            }
        }
        public void Close() { }
        public void Dispose() { }
        public override string ToString() => Name;
    }

    public sealed class Identity
    {
        private static readonly Dictionary<string, string[]> s_names = new Dictionary<string, string[]>
        {
            ["S-1-5-18"] = new[] { @"NT AUTHORITY\SYSTEM", @"NT-AUTORITÄT\SYSTEM" },
            ["S-1-5-32-544"] = new[] { @"BUILTIN\Administrators", @"VORDEFINIERT\Administratoren" },
            ["S-1-5-32-545"] = new[] { @"BUILTIN\Users", @"VORDEFINIERT\Benutzer" },
            ["S-1-1-0"] = new[] { "Everyone", "Jeder" },
        };
        private static readonly Dictionary<string, string> s_aliases = new Dictionary<string, string>
        {
            ["SY"] = "S-1-5-18", ["BA"] = "S-1-5-32-544", ["BU"] = "S-1-5-32-545", ["WD"] = "S-1-1-0",
        };
        private readonly string _sid;
        private readonly bool _asSid;
        internal Identity(string sid, bool asSid) { _sid = s_aliases.TryGetValue(sid, out string known) ? known : sid; _asSid = asSid; }
        public string Value => !_asSid && s_names.TryGetValue(_sid, out string[] names) ? names[(string)State.Switch("language") == "de" ? 1 : 0] : _sid;
        public Identity Translate(Type type) => new Identity(_sid, type.Name == "SecurityIdentifier");
        public override string ToString() => Value;
    }

    public sealed class AccessRule
    {
        public Identity IdentityReference { get; internal set; }
        public string AccessControlType { get; internal set; }
        public string FileSystemRights { get; internal set; }
        public bool IsInherited { get; internal set; }
        public string InheritanceFlags { get; internal set; }
        public string PropagationFlags => "None";
    }

    // What Get-Acl returns: FileSecurity or DirectorySecurity, which .NET has on Windows only.
    public sealed class FileSystemSecurity
    {
        // What a new folder below the root of a volume has.
        private const string Usual = "O:BAG:SYD:AI(A;OICIID;FA;;;SY)(A;OICIID;FA;;;BA)(A;OICIID;0x1200a9;;;BU)";
        public string Path { get; private set; }
        public string Sddl { get; private set; } = "O:BAG:SYD:";
        public FileSystemSecurity() { }

        public static FileSystemSecurity Of(string path)
        {
            var lists = (JsonObject)State.Read("acls.json");
            path = System.IO.Path.GetFullPath(path);
            if (lists[Id(path)] is JsonNode own) return new FileSystemSecurity { Path = path, Sddl = (string)own };
            for (string above = System.IO.Path.GetDirectoryName(path); above != null; above = System.IO.Path.GetDirectoryName(above))
                if (lists[Id(above)] is JsonNode inherited)
                    return new FileSystemSecurity { Path = path, Sddl = Regex.Replace(((string)inherited).Replace("D:P", "D:"), @"\(A;(\w*);", "(A;$1ID;") };
            return new FileSystemSecurity { Path = path, Sddl = Usual };
        }
        // A list belongs to a folder or file, not to its name: it goes with a rename and doesn't wait for a successor.
        private static string Id(string path) => File.GetCreationTimeUtc(path).Ticks.ToString();
        public void Put(string path)
        {
            var lists = (JsonObject)State.Read("acls.json");
            lists[Id(System.IO.Path.GetFullPath(path))] = Sddl;
            State.Write("acls.json", lists);
        }
        public void SetSecurityDescriptorSddlForm(string sddl)
        {
            if (!Regex.IsMatch(sddl, @"^(O:[\w-]+)?(G:[\w-]+)?D:[A-Z]*(\([^()]*\))*$")) throw new ArgumentException("The SDDL form of a security descriptor object is invalid.");
            Sddl = sddl;
        }
        public string GetSecurityDescriptorSddlForm(object sections) => Sddl;
        public bool AreAccessRulesProtected => Regex.IsMatch(Sddl, @"D:[A-Z]*P");
        public bool AreAccessRulesCanonical => true;
        public string Owner => new Identity(Regex.Match(Sddl, @"O:([A-Z]{2}|S-[\d-]+)").Groups[1].Value, false).Value;
        public object GetOwner(Type type) => new Identity(Regex.Match(Sddl, @"O:([A-Z]{2}|S-[\d-]+)").Groups[1].Value, type.Name == "SecurityIdentifier");
        public AccessRule[] Access => GetAccessRules(true, true, typeof(string));
        public AccessRule[] GetAccessRules(bool includeExplicit, bool includeInherited, Type type) =>
            Regex.Matches(Sddl, @"\((\w);(\w*);(\w*);[^;]*;[^;]*;([\w-]+)\)").Cast<Match>().Select(ace => new AccessRule
            {
                IdentityReference = new Identity(ace.Groups[4].Value, type.Name == "SecurityIdentifier"),
                AccessControlType = ace.Groups[1].Value == "D" ? "Deny" : "Allow",
                FileSystemRights = ace.Groups[3].Value == "FA" ? "FullControl" : "ReadAndExecute, Synchronize",
                IsInherited = ace.Groups[2].Value.Contains("ID"),
                InheritanceFlags = ace.Groups[2].Value.Contains("OICI") ? "ContainerInherit, ObjectInherit" : "None",
            }).Where(rule => rule.IsInherited ? includeInherited : includeExplicit).ToArray();
    }
}
