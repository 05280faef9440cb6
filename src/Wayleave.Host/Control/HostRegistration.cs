using System.Text.Json;
using Wayleave.Core;
using Wayleave.Linux;

namespace Wayleave.Host.Control;

// Two files in the runtime directory: NAME.json says where the host is; on NAME.lock the host keeps an exclusive
// flock(2) as long as it lives. So a name is taken by one host at a time, and what a killed host left behind is
// recognised without trusting a process id, which may belong to another process by now.

/// <summary>
/// A host's claim on its name, and where local clients find it. Disposing takes the files away; a killed host leaves
/// them, unlocked.
/// </summary>
internal sealed class HostRegistration : IDisposable
{
    private const string LockSuffix = ".lock";
    private const string Suffix = ".json";
    private const int FileBytesMax = 16384;
    private const UnixFileMode OwnerOnly = UnixFileMode.UserRead | UnixFileMode.UserWrite;

    // A client that looks whether a lock is held holds a shared one for a moment.
    private const int ClaimAttempts = 20;
    private static readonly TimeSpan s_claimPause = TimeSpan.FromMilliseconds(10);

    private readonly FileStream _lock;
    private readonly string _lockPath;
    private readonly string _path;

    private HostRegistration(FileStream file, string lockPath, string path) =>
        (_lock, _lockPath, _path) = (file, lockPath, path);

    /// <summary>Takes a name. What an earlier host of that name left behind may be removed from now on.</summary>
    /// <exception cref="WayleaveException">EBUSY: a host of that name runs.</exception>
    public static HostRegistration Claim(string directory, string name)
    {
        string lockPath = Path.Combine(directory, name + LockSuffix);
        string operation = $"start host {name}";
        for (int attempt = 1; ; attempt++)
        {
            try
            {
                FileStream file = new(lockPath, new FileStreamOptions
                {
                    Mode = FileMode.OpenOrCreate,
                    Access = FileAccess.ReadWrite,
                    Share = FileShare.None,
                    UnixCreateMode = OwnerOnly,
                });

                // A host that ended between our open and our lock has removed the file, and the name with it.
                if (FileStatus.TryRead(lockPath, out FileStatus named) && named == FileStatus.Read(file.SafeFileHandle))
                {
                    return new HostRegistration(file, lockPath, Path.Combine(directory, name + Suffix));
                }

                file.Dispose();
            }
            catch (IOException e) when (ErrnoMap.ToErrno(e) is Errno.EAGAIN && attempt == ClaimAttempts)
            {
                throw new WayleaveException(
                    Errno.EBUSY, operation, "a host of this name runs already", "choose another by --name", e);
            }
            catch (IOException e) when (ErrnoMap.ToErrno(e) is Errno.EAGAIN)
            {
                Thread.Sleep(s_claimPause);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                throw ErrnoMap.ToException(e, $"{operation}: write {lockPath}");
            }
        }
    }

    /// <summary>The hosts that run now, in order of their names.</summary>
    public static IReadOnlyList<RegistrationDocument> List(string directory)
    {
        if (!RuntimeDirectory.Exists(directory))
        {
            return [];
        }

        List<RegistrationDocument> running = [];
        foreach (string path in Directory.GetFiles(directory, "*" + LockSuffix).Order(StringComparer.Ordinal))
        {
            if (IsLocked(path) && TryRead(Path.ChangeExtension(path, Suffix)) is { } document)
            {
                running.Add(document);
            }
        }

        return running;
    }

    /// <summary>Tells local clients where the host listens.</summary>
    public void Publish(RegistrationDocument document)
    {
        // Readers see all of it or nothing.
        string draft = _path + ".new";
        File.Delete(draft);
        FileStreamOptions options =
            new() { Mode = FileMode.CreateNew, Access = FileAccess.Write, UnixCreateMode = OwnerOnly };
        using (FileStream stream = new(draft, options))
        {
            JsonSerializer.Serialize(stream, document, ControlJson.Default.RegistrationDocument);
        }

        File.Move(draft, _path, overwrite: true);
    }

    /// <summary>Gives the name back.</summary>
    public void Dispose()
    {
        // While still locked, so that they are surely ours.
        if (_lock.CanWrite)
        {
            File.Delete(_path);
            File.Delete(_lockPath);
            _lock.Dispose();
        }
    }

    private static bool IsLocked(string path)
    {
        try
        {
            using FileStream probe = new(path, FileMode.Open, FileAccess.Read, FileShare.Read);
            return false;
        }
        catch (IOException e) when (ErrnoMap.ToErrno(e) is Errno.EAGAIN or Errno.ENOENT)
        {
            return ErrnoMap.ToErrno(e) == Errno.EAGAIN;
        }
    }

    private static RegistrationDocument? TryRead(string path)
    {
        try
        {
            using FileStream stream = File.OpenRead(path);
            Span<byte> bytes = stackalloc byte[FileBytesMax];
            int length = stream.ReadAtLeast(bytes, bytes.Length, throwOnEndOfStream: false);
            return JsonSerializer.Deserialize(bytes[..length], ControlJson.Default.RegistrationDocument);
        }
        catch (Exception e) when (e is JsonException or FileNotFoundException)
        {
            return null; // a host that is just starting or ending, or one of another version
        }
    }
}
