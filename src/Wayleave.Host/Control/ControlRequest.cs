using System.Globalization;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using Microsoft.AspNetCore.Http;
using Wayleave.Core;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Control;

/// <summary>What a request names and carries, and how it is answered.</summary>
internal static class ControlRequest
{
    /// <summary>A ready object by the device and the name of the path.</summary>
    public static DeviceObject FindByName(WayleaveHost host, HttpContext context)
    {
        (string device, string name) = ReadName(context);
        return host.Objects.Find(device, name) ?? throw NoSuchObject(device, name);
    }

    /// <summary>An object in any state by the number of the path.</summary>
    public static DeviceObject FindById(WayleaveHost host, HttpContext context)
    {
        ulong id = ReadId(context);
        return host.Objects.Find(id)
            ?? throw new WayleaveException(
                Errno.ENOENT, $"find object {id}", "it was given up or taken back", "start again with a new one");
    }

    public static WayleaveException NoSuchObject(string device, string name) =>
        new(Errno.ENOENT, $"find {device}/{name}", "there is no such object", "wayleave ls shows what there is");

    public static (string Device, string Name) ReadName(HttpContext context) =>
        ((string)context.Request.RouteValues["device"]!, (string)context.Request.RouteValues["name"]!);

    public static ulong ReadId(HttpContext context) => ReadNumber(context, "id");

    /// <summary>A number of the path.</summary>
    public static ulong ReadNumber(HttpContext context, string key)
    {
        string text = (string)context.Request.RouteValues[key]!;
        return ulong.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out ulong number)
            ? number
            : throw new WayleaveException(Errno.EINVAL, DescribeRequest(context), $"'{text}' is not a number");
    }

    public static string DescribeRequest(HttpContext context) => $"{context.Request.Method} {context.Request.Path}";

    /// <summary>Reads a body. JSON must say that it is: a form that a foreign page sends cannot.</summary>
    public static async Task<T> ReadAsync<T>(HttpContext context, JsonTypeInfo<T> type)
        where T : class
    {
        string operation = DescribeRequest(context);
        if (!context.Request.HasJsonContentType())
        {
            throw new WayleaveException(Errno.EINVAL, operation, "the body must have Content-Type: application/json");
        }

        return await JsonSerializer
            .DeserializeAsync(context.Request.Body, type, context.RequestAborted).ConfigureAwait(false)
            ?? throw new WayleaveException(Errno.EINVAL, operation, "the body is null");
    }

    /// <summary>Answers with a document.</summary>
    public static Task WriteAsync<T>(HttpContext context, T document, JsonTypeInfo<T> type) =>
        context.Response.WriteAsJsonAsync(document, type, cancellationToken: context.RequestAborted);
}
