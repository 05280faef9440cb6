using Wayleave.Core;
using Wayleave.Linux;

namespace Wayleave.Client;

/// <summary>
/// Where the brokers of this user's hosts listen, for programs that were given a descriptor and no name.
/// </summary>
public static class BrokerSockets
{
    /// <summary>The environment variable that names one socket, and lets no other be tried.</summary>
    public const string Variable = "WAYLEAVE_BROKER";

    /// <summary>
    /// The folder of the running hosts of one user: <c>$XDG_RUNTIME_DIR/wayleave</c>, or <c>/tmp/wayleave-UID</c>.
    /// Looks, but makes nothing.
    /// </summary>
    /// <param name="environment">
    /// Looks a variable up; <see cref="Environment.GetEnvironmentVariable(string)"/> outside tests.
    /// </param>
    public static string LocateDirectory(Func<string, string?> environment)
    {
        ArgumentNullException.ThrowIfNull(environment);
        uint user = FileStatus.CurrentUserId;

        // Under su and sudo the variable may still name the folder of another user.
        string? root = environment("XDG_RUNTIME_DIR");
        return !string.IsNullOrEmpty(root) && Path.IsPathFullyQualified(root)
            && FileStatus.TryRead(root, out FileStatus status)
            && status.Kind == FileKind.Directory
            && status.UserId == user
            ? Path.Combine(root, "wayleave")
            : FormattableString.Invariant($"/tmp/wayleave-{user}");
    }

    /// <summary>
    /// Attaches to the buffer that a descriptor stands for, at the broker that made it: the one that
    /// <see cref="Variable"/> names, or any of this user's hosts. The descriptor stays the caller's.
    /// </summary>
    /// <param name="descriptor">Any; what is no socket is asked about nowhere.</param>
    /// <param name="name">Of the program, for people; at most 31 bytes of UTF-8.</param>
    /// <param name="environment">As of <see cref="LocateDirectory"/>.</param>
    /// <param name="import">Null unless Success.</param>
    /// <returns>
    /// EINVAL: it stands for no buffer of any host that was found. ENODEV: taken back. EOPNOTSUPP: storage that no
    /// processor reaches. Or what the broker said last.
    /// </returns>
    public static Errno TryAttach(
        FileDescriptor descriptor, string name, Func<string, string?> environment, out ClientImport? import)
    {
        ArgumentNullException.ThrowIfNull(environment);
        import = null;
        Errno last = Errno.EINVAL;
        foreach (string path in Find(environment))
        {
            BrokerClient? client = null;
            try
            {
                client = BrokerClient.Connect(path, name);
                import = client.Attach(descriptor);
                return Errno.Success;
            }
            catch (BrokerException e)
            {
                client?.Dispose();
                if (e.Errno is not (Errno.EINVAL or Errno.ECONNREFUSED or Errno.ENOENT or Errno.EACCES))
                {
                    last = e.Errno;
                }
            }
        }

        return last;
    }

    private static string[] Find(Func<string, string?> environment)
    {
        if (environment(Variable) is { Length: > 0 } one)
        {
            return [one];
        }

        string directory = LocateDirectory(environment);
        return FileStatus.TryRead(directory, out FileStatus status)
            && status.Kind == FileKind.Directory && status.UserId == FileStatus.CurrentUserId
            ? Directory.GetFiles(directory, "*.broker.sock")
            : [];
    }
}
