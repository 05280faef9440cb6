using System.Buffers;
using System.Text;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Host.Programs;

/// <summary>Files that every process of a run adds to; whoever starts them begins and ends the files.</summary>
internal static class RunFiles
{
    /// <summary>A capture without packets.</summary>
    /// <returns>The whole path: a process of the run may be in another folder.</returns>
    /// <exception cref="WayleaveException">The file cannot be made.</exception>
    public static string StartCapture(string path)
    {
        ArrayBufferWriter<byte> header = new();
        PcapWriter.WriteHeader(header);
        return Start(path, header.WrittenSpan.ToArray());
    }

    /// <summary>As <see cref="StartCapture"/>: an array that is open.</summary>
    public static string StartTrace(string path) => Start(path, "[\n"u8.ToArray());

    /// <summary>Closes the array. Every event before has a comma, so that one more must come.</summary>
    public static void EndTrace(string path)
    {
        const string Last = """{"name":"process_name","ph":"M","pid":0,"args":{"name":"wayleave run"}}""";
        Try(() => File.AppendAllText(path, Last + "\n]\n", Encoding.ASCII), path);
    }

    private static string Start(string path, byte[] bytes)
    {
        Try(() => File.WriteAllBytes(path, bytes), path);
        return Path.GetFullPath(path);
    }

    private static void Try(Action action, string path)
    {
        try
        {
            action();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw ErrnoMap.ToException(e, $"write {path}");
        }
    }
}
